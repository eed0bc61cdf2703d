"""Workers are killed, stopped and told to end: what was accepted still happens, and its effects happen once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import psutil
import pytest

from headrace.clock import now
from headrace.database.states import JobState
from headrace.diagnostics import echo, sleep
from tests import trial
from tests.job_processes import World, open_world, settings_of

pytestmark = pytest.mark.processes


@pytest.fixture
async def world(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """Processes with a lease of one second."""
    async with open_world(settings_of(database_url, redis_url), tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("workers", [1, 2])
async def test_job_runs_again_within_five_seconds_when_its_worker_is_killed(
    database_url: str,
    redis_url: str,
    tmp_path: Path,
    record_testsuite_property: Callable[[str, object], None],
    *,
    workers: int,
) -> None:
    """SIGKILL in the middle of a job, on an idle queue, with the default lease: attempt 2, and the first is lost."""
    settings = settings_of(database_url, redis_url, lease_seconds=3.0)
    marks = tmp_path / "marks"
    marks.mkdir()
    async with open_world(settings, tmp_path) as world:
        world.relay()
        for _ in range(workers):
            world.worker()
        await world.registered("worker", workers)
        (job_id,) = await world.enqueue(trial.mark.call(str(marks), 60.0))
        runner = await world.runner_of(job_id)
        await world.eventually(lambda: _is_marked(marks))

        killed_at = now()
        os.kill(runner, signal.SIGKILL)
        job = await world.finished(job_id)

    assert job.started_at is not None
    rerun_seconds = (job.started_at - killed_at).total_seconds()
    record_testsuite_property(f"crash_to_rerun_seconds_with_{workers}_workers", rerun_seconds)
    assert (job.state, job.attempt, msgspec.json.decode(job.result)) == (JobState.SUCCEEDED, 2, 2)
    assert [(error.attempt, error.outcome) for error in job.errors] == [(1, "lost")]
    assert {path.name for path in marks.iterdir()} == {f"{job_id}-1", f"{job_id}-2"}
    assert rerun_seconds < 8.0  # the promise is 5 s; a loaded machine restarts Taskiq's child later


async def _is_marked(marks: Path) -> bool:
    return any(marks.iterdir())  # noqa: ASYNC240 - a moment


async def test_poisonous_job_is_dead_after_its_attempts_when_it_kills_each_worker(world: World) -> None:
    """RedisStreamBroker ran such a task ten times in forty seconds without a bound. The queue moves on."""
    world.relay()
    world.worker()
    world.worker()
    await world.registered("worker", 2)

    (poison,) = await world.enqueue(trial.die.call())
    job = await world.finished(poison)
    (after,) = await world.enqueue(echo.call("after"))

    assert (await world.finished(after)).state is JobState.SUCCEEDED
    assert (job.state, [error.outcome for error in job.errors]) == (JobState.DEAD, ["lost"] * 3)


async def test_zombie_counts_for_nothing_when_it_wakes_up_after_its_lease(world: World, tmp_path: Path) -> None:
    """SIGSTOP until the second runs have ended, then SIGCONT: the zombie's outcomes and its commits are refused."""
    marks = tmp_path / "marks"
    marks.mkdir()
    world.relay()
    world.worker()
    (first,) = await world.registered("worker")
    calls = (trial.write.call("held", 1.0), trial.late.call("late", 1.0), trial.mark.call(str(marks), 1.0))
    ids = await world.enqueue(*calls)
    for job_id in ids:
        assert await world.runner_of(job_id) == first
    await world.eventually(lambda: _is_marked(marks))
    world.worker()

    os.kill(first, signal.SIGSTOP)
    jobs = [await world.finished(job_id) for job_id in ids]
    os.kill(first, signal.SIGCONT)
    await world.registered("worker", 2)
    (after,) = await world.enqueue(echo.call("after"))
    await world.finished(after)
    await world.eventually(lambda: _nobody_holds_a_transaction(world))

    assert [(job.state, job.attempt) for job in jobs] == [(JobState.SUCCEEDED, 2)] * 3
    assert await world.effects() == {"held": 1, "late": 1}
    assert await world.rows("SELECT DISTINCT attempt FROM trial_effects") == [(2,)]
    again = [await world.finished(job_id) for job_id in ids]
    assert [(job.attempt, bytes(job.result), len(job.errors)) for job in again] == [(2, b"2", 1)] * 3


async def _nobody_holds_a_transaction(world: World) -> bool:
    return not await world.any_row(
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
    )


async def test_nothing_is_lost_or_counted_when_a_worker_is_told_to_end_under_load(world: World) -> None:
    """SIGTERM: it ends in time, burns no attempt, and what it did not finish runs elsewhere."""
    world.relay()
    worker = world.worker()
    await world.registered("worker")
    (long,) = await world.enqueue(sleep.call(6.0))
    await world.runner_of(long)
    keys = [str(n) for n in range(600)]
    await world.enqueue(*(trial.write.call(key, 0.02) for key in keys))
    await world.succeeded(50)

    begin = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    worker.wait(timeout=20)
    took = time.monotonic() - begin
    left = await world.counts()
    world.worker()
    counts = await world.all_finished()

    assert took < 10.0  # a second of Taskiq's, three of patience, and the hand-over
    assert left.get("succeeded", 0) < 601
    assert "running" not in left
    assert counts == {"succeeded": 601}
    assert await world.effects() == dict.fromkeys(keys, 1)
    assert await world.rows("SELECT count(*) FROM jobs WHERE attempt <> 1") == [(0,)]
    assert await world.rows("SELECT count(*) FROM job_attempts") == [(0,)]


async def test_worker_ends_when_its_manager_is_killed(world: World) -> None:
    """SIGKILL of Taskiq's first process leaves no worker behind that nobody can stop; what it runs, it finishes."""
    world.relay()
    manager = world.worker()
    (pid,) = await world.registered("worker")
    (job_id,) = await world.enqueue(sleep.call(1.5))
    await world.runner_of(job_id)

    manager.kill()
    job = await world.finished(job_id)
    await world.eventually(lambda: _is_gone(pid), 10)

    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)
    assert await world.pids("worker") == []


async def _is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


async def test_worker_ends_in_time_when_a_task_ignores_its_cancellation(world: World) -> None:
    """A stubborn task does not hold up a shutdown for ever; its job runs elsewhere."""
    world.relay()
    worker = world.worker()
    await world.registered("worker")
    (job_id,) = await world.enqueue(trial.stubborn.call(300.0))
    await world.runner_of(job_id)

    begin = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    worker.wait(timeout=25)

    assert time.monotonic() - begin < 15.0
    await world.eventually(lambda: world.any_row("SELECT 1 FROM job_attempts WHERE outcome = 'lost'"))


async def test_every_effect_happens_once_when_workers_are_killed_again_and_again(world: World) -> None:
    """Three SIGKILLs under load, two workers: each job is done, each effect is there once."""
    world.relay()
    world.worker()
    world.worker()
    await world.registered("worker", 2)
    keys = [str(n) for n in range(900)]
    await world.enqueue(*(trial.write.call(key, 0.02) for key in keys))

    for done in (50, 200, 400):
        await world.succeeded(done)
        os.kill(next(pid for pid in await world.pids("worker") if psutil.pid_exists(pid)), signal.SIGKILL)
    counts = await world.all_finished()

    assert counts == {"succeeded": 900}
    assert await world.effects() == dict.fromkeys(keys, 1)
    assert await world.any_row("SELECT 1 FROM job_attempts WHERE outcome = 'lost'")
