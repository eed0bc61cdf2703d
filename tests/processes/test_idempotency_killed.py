"""Workers die and freeze in the middle of work that must be done once."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headrace.database.states import JobState
from tests import trial
from tests.job_processes import World, open_world, settings_of

pytestmark = pytest.mark.processes


@pytest.fixture
async def world(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """Processes with a lease of one second."""
    async with open_world(settings_of(database_url, redis_url), tmp_path) as opened:
        opened.relay()
        opened.worker()
        await opened.registered("worker")
        yield opened


async def _is_at_it(world: World) -> bool:
    """Tell whether a session holds the row of work done, uncommitted."""
    return await world.any_row(
        "SELECT 1 FROM pg_locks WHERE relation = 'processed_work'::regclass AND mode = 'RowExclusiveLock' AND granted"
    )


async def test_work_is_done_once_when_its_worker_is_killed_before_the_commit(world: World) -> None:
    """Effect and row were written and not committed: the second attempt finds neither, and does the work."""
    (job_id,) = await world.enqueue(trial.work_once.call("key", 60.0))
    runner = await world.runner_of(job_id)
    await world.eventually(lambda: _is_at_it(world))

    os.kill(runner, signal.SIGKILL)
    job = await world.finished(job_id)
    (again,) = await world.enqueue(trial.work_once.call("key", 60.0))
    repeat = await world.finished(again)

    assert (job.state, job.attempt, bytes(job.result)) == (JobState.SUCCEEDED, 2, b"2")
    assert (repeat.state, repeat.attempt, bytes(repeat.result)) == (JobState.SUCCEEDED, 1, b"2")
    assert await world.effects() == {"key": 1}


async def test_another_job_does_the_work_when_the_one_that_began_it_is_frozen(world: World) -> None:
    """The frozen session holds the unique key until it is ended; then its work is undone, and done by who waited."""
    (first,) = await world.enqueue(trial.work_once.call("key", 3.0))
    frozen = await world.runner_of(first)
    await world.eventually(lambda: _is_at_it(world))
    world.worker()
    await world.registered("worker", 2)

    os.kill(frozen, signal.SIGSTOP)
    (second,) = await world.enqueue(trial.work_once.call("key", 0.0))
    jobs = [await world.finished(job_id) for job_id in (first, second)]
    os.kill(frozen, signal.SIGCONT)
    await world.registered("worker", 2)

    assert [job.state for job in jobs] == [JobState.SUCCEEDED] * 2
    assert bytes(jobs[0].result) == bytes(jobs[1].result)
    assert await world.effects() == {"key": 1}
    assert await world.rows("SELECT count(*) FROM processed_work") == [(1,)]


async def test_claim_is_taken_over_when_its_worker_is_killed(world: World, tmp_path: Path) -> None:
    """The next run of the job makes the effect, a second one: nobody knew of the first; another job makes none."""
    marks = tmp_path / "marks"
    marks.mkdir()
    (job_id,) = await world.enqueue(trial.mark_claimed.call(str(marks), 60.0))
    runner = await world.runner_of(job_id)

    async def marked() -> bool:
        return any(marks.iterdir())

    await world.eventually(marked)
    (other,) = await world.enqueue(trial.mark_claimed.call(str(marks), 0.0))
    os.kill(runner, signal.SIGKILL)
    jobs = [await world.finished(one) for one in (job_id, other)]

    assert [(job.state, bytes(job.result)) for job in jobs] == [
        (JobState.SUCCEEDED, b"true"),
        (JobState.SUCCEEDED, b"false"),
    ]
    assert sorted(mark.name for mark in marks.iterdir()) == [f"{job_id}-1", f"{job_id}-2"]
