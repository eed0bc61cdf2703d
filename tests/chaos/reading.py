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

from headrace.database.states import JobState
from tests.chaos.ledger import read_ledger
from tests.chaos.tasks import child_of
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


async def read_history(world: World, accepted: Sequence[Accepted], ledger: Path) -> History:
    """Read all that was written down. A job enqueued by a task is accepted when that task's session committed."""
    began, outside = read_ledger(ledger)
    effects = await world.rows(_EFFECTS)
    children = [
        Accepted(row["child_id"], frozenset({JobState.SUCCEEDED}), child_of(row["key"]))
        for row in effects
        if row["child_id"] is not None
    ]
    return History(
        accepted=[*accepted, *children],
        began=began,
        outside=outside,
        effects=[row["key"] for row in effects],
        jobs=await _jobs(world),
    )


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
