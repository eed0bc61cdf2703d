"""What the tests of workflows share: starting one, ending its jobs behind the road's back, following their ends.

Owns the ways to bring a job to an end without a relay and a worker, by legal moves alone, so that a test decides which
job ends when, and what was followed by then.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from headrace.database.states import JobState
from headrace.diagnostics import echo
from headrace.jobs.cancel import cancel_job
from headrace.jobs.follow import CallOf, follow_endings
from headrace.jobs.redrive import redrive_job
from headrace.jobs.workflow import Workflow
from tests.road import Road

WAY = {
    JobState.SUCCEEDED: (JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED),
    JobState.DEAD: (JobState.QUEUED, JobState.RUNNING, JobState.DEAD),
    JobState.CANCELLED: (JobState.CANCELLED,),
    JobState.EXPIRED: (JobState.EXPIRED,),
}
"""How a job that waits comes to its end."""
_MOVE = """
    UPDATE jobs SET state = CAST($2::text AS job_state), fence = fence + CAST($2::text = 'queued' AS integer),
        attempt = attempt + CAST($2::text = 'running' AS integer),
        finished_at = CASE WHEN $2::text IN ('succeeded', 'dead', 'cancelled', 'expired') THEN clock_timestamp() END
    WHERE id = $1
"""


async def start(road: Road, workflow: Workflow) -> dict[str, UUID]:
    """Start a workflow in a transaction of its own."""
    async with road.transaction() as tx:
        ids: dict[str, UUID] = await tx.start(workflow)
    return ids


async def end(road: Road, job_id: UUID, state: JobState) -> None:
    """Bring a job that is pending, or has not started, to its end."""
    for moved_to in WAY[state]:
        await road.driver.execute(_MOVE, job_id, moved_to.value)


async def follow(road: Road, hooks: Mapping[str, CallOf] | None = None) -> int:
    """Follow every ending there is; return how many there were."""
    followed = 0
    while ended := await follow_endings(road.driver, hooks or {}):
        followed += ended
    return followed


async def states(road: Road, ids: Mapping[str, UUID]) -> dict[str, str]:
    """Return the states of a workflow's jobs, by name."""
    rows = await road.driver.fetch("SELECT id, state::text FROM jobs WHERE id = ANY($1::uuid[])", list(ids.values()))
    found = {row["id"]: row["state"] for row in rows}
    return {name: found[job_id] for name, job_id in ids.items()}


def diamond() -> Workflow:
    """A top, two that wait for it, and a bottom that waits for both."""
    return (
        Workflow()
        .add("top", echo.call(1))
        .add("left", echo.call(2), after=["top"])
        .add("right", echo.call(3), after=["top"])
        .add("bottom", echo.call(4), after=["left", "right"])
    )


async def cancel(road: Road, job_id: UUID) -> None:
    """Cancel a job as an operator does."""
    async with road.transaction() as tx:
        await cancel_job(tx, job_id)


async def redrive(road: Road, job_id: UUID) -> None:
    """Try a job again as an operator does."""
    async with road.transaction() as tx:
        await redrive_job(tx, job_id, attempts=3)
