"""Every move of a job is on record with its time, and the database refuses those that the table does not allow."""

from __future__ import annotations

from uuid import UUID

import asyncpg
import pytest

from headrace.database.states import TRANSITIONS, JobState
from headrace.diagnostics import echo
from tests.road import Road

_ON_RECORD = (
    "SELECT state::text, at, until, seconds FROM job_transitions WHERE job_id = $1 ORDER BY at, until NULLS LAST"
)


async def moves(road: Road, job_id: UUID) -> list[str]:
    """Return the states that a job was in, in their order."""
    return [row["state"] for row in await road.driver.fetch(_ON_RECORD, job_id)]


async def put(road: Road, job_id: UUID, state: JobState) -> None:
    """Move the job without asking whether it may."""
    await road.driver.execute("UPDATE jobs SET state = CAST($2::text AS job_state) WHERE id = $1", job_id, state.value)


async def test_moves_have_their_times_when_a_job_succeeds(road: Road) -> None:
    """One row for each state: when it came, how long it lasted; the last one is still open."""
    (job_id,) = await road.enqueue(echo.call(1))

    for state in (JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED):
        await put(road, job_id, state)

    rows = await road.driver.fetch(_ON_RECORD, job_id)
    assert [row["state"] for row in rows] == ["pending", "queued", "running", "succeeded"]
    assert [row["until"] for row in rows[:-1]] == [row["at"] for row in rows[1:]]
    assert rows[-1]["until"] is None
    assert all(row["seconds"] >= 0 for row in rows)


@pytest.mark.parametrize("before", list(JobState))
async def test_database_refuses_a_move_when_the_table_does_not_have_it(road: Road, before: JobState) -> None:
    """From every state, every move that is not in the table fails, whoever makes it."""
    (job_id,) = await road.enqueue(echo.call(1))
    await road.driver.execute("ALTER TABLE jobs DISABLE TRIGGER job_moved")
    await put(road, job_id, before)
    await road.driver.execute("ALTER TABLE jobs ENABLE TRIGGER job_moved")

    for after in set(JobState) - TRANSITIONS[before] - {before}:
        with pytest.raises(asyncpg.CheckViolationError, match=f"is {before}: it cannot become {after}"):
            await put(road, job_id, after)


async def test_no_move_is_lost_when_a_job_moves_for_ever(road: Road) -> None:
    """A job that snoozes again and again keeps a short row, and every move is on record."""
    (job_id,) = await road.enqueue(echo.call(1))
    cycle = [JobState.QUEUED, JobState.RUNNING, JobState.SCHEDULED, JobState.PENDING]

    for state in cycle * 50:
        await put(road, job_id, state)

    assert await moves(road, job_id) == ["pending", *(state.value for state in cycle * 50)]
    on_row = await road.driver.fetchval("SELECT cardinality(moved_to) FROM jobs WHERE id = $1", job_id)
    assert on_row <= 64
