"""What is read at the end: the record, and the ledger beside it.

Owns the questions to the record that make a `History` of a run, and the intervals in which jobs of one concurrency key
ran. Nothing is read while the run goes on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from uuid import UUID

from headrace.clock import new_id
from headrace.database.states import JobState
from tests.chaos.ledger import read_ledger
from tests.chaos.tasks import about_death_of, child_of
from tests.history import Accepted, Attempt, History, Recorded
from tests.intervals import most_at_once
from tests.job_processes import World

_JOBS: Final = """
    SELECT id, state::text, attempt, fence,
           (SELECT count(*) FROM job_transitions t WHERE t.job_id = jobs.id AND t.state = 'running') AS starts
    FROM jobs
"""
_ATTEMPTS: Final = """
    SELECT job_id, attempt, fence, outcome, type || ': ' || message FROM job_attempts
"""
_EFFECTS: Final = "SELECT key, child_id FROM chaos_effects"
_RUNS: Final = """
    SELECT j.queue, j.concurrency_key, t.at, t.until
    FROM job_transitions t JOIN jobs j ON j.id = t.job_id
    WHERE t.state = 'running' AND j.concurrency_key IS NOT NULL AND t.until IS NOT NULL
"""


_DEATHS: Final = """
    SELECT j.id, (SELECT h.id FROM jobs h WHERE h.parent_id = j.id AND h.task = 'chaos.told')
    FROM jobs j WHERE j.on_dead IS NOT NULL AND j.state = 'dead'
"""
_TOO_EARLY: Final = """
    SELECT count(DISTINCT l.child_id) FROM job_parents l
    JOIN job_transitions c ON c.job_id = l.child_id AND c.state IN ('pending', 'queued', 'running')
    WHERE NOT EXISTS (SELECT FROM job_transitions p
                      WHERE p.job_id = l.parent_id AND p.state = 'succeeded' AND p.at <= c.at)
"""
_SUCCEEDS: Final = frozenset({JobState.SUCCEEDED})


async def read_history(world: World, accepted: Sequence[Accepted], ledger: Path) -> History:
    """Read all that was written down.

    A job that a task enqueued is accepted when the task's session committed; the hook of a job is when that is dead.
    """
    began, outside = read_ledger(ledger)
    effects = await world.rows(_EFFECTS)
    children = [
        Accepted(row["child_id"], _SUCCEEDS, child_of(row["key"])) for row in effects if row["child_id"] is not None
    ]
    hooks = [
        Accepted(hook_id or new_id(), _SUCCEEDS, about_death_of(job_id))
        for job_id, hook_id in await world.rows(_DEATHS)
    ]
    return History(
        accepted=[*accepted, *children, *hooks],
        began=began,
        outside=outside,
        effects=[row["key"] for row in effects],
        jobs=await _jobs(world),
    )


async def started_too_early(world: World) -> int:
    """Return how many jobs of workflows became due before all their parents had succeeded."""
    early: int = (await world.rows(_TOO_EARLY))[0][0]
    return early


async def most_of_one_key(world: World) -> int:
    """Return how many jobs of one concurrency key ran at once at most, by the record."""
    runs = defaultdict(list)
    for queue, key, begin, end in await world.rows(_RUNS):
        runs[queue, key].append((begin, end))
    return max((most_at_once(intervals) for intervals in runs.values()), default=0)


async def _jobs(world: World) -> dict[UUID, Recorded]:
    attempts: dict[UUID, list[Attempt]] = defaultdict(list)
    for job_id, *attempt in await world.rows(_ATTEMPTS):
        attempts[job_id].append(Attempt(*attempt))
    return {
        job_id: Recorded(job_id, JobState(state), attempt, fence, starts, tuple(attempts.get(job_id, ())))
        for job_id, state, attempt, fence, starts in await world.rows(_JOBS)
    }
