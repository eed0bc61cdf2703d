"""Where functions run, and how they end: on the loop, in threads, in child processes."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import msgspec
import psutil
import pytest

from headrace import diagnostics
from headrace.application import combine
from headrace.database.states import JobState
from headrace.jobs.call import Call
from headrace.jobs.cancel import cancel_job
from headrace.jobs.queries import Job
from headrace.tasks.contract import Task
from headrace.transaction import transaction
from tests import running, trial
from tests.road import Road, eventually, relaying, working
from tests.road import running as road_running


@pytest.fixture
async def wide(road: Road) -> AsyncIterator[Road]:
    """A road with the tasks of `running`, relay and worker."""
    opened = replace(road, registry=combine([diagnostics.application, trial.application, running.application]))
    async with road_running(opened):
        yield opened


def notes(directory: Path) -> list[str]:
    """Return what the tasks have written down."""
    place = directory / "notes"
    return place.read_text().splitlines() if place.exists() else []


async def noted(directory: Path, start: str) -> str:
    """Wait until a line begins so, and return it."""

    async def there() -> bool:
        return any(line.startswith(start) for line in notes(directory))

    await eventually(there)
    return next(line for line in notes(directory) if line.startswith(start))


async def run(road: Road, call: Call) -> Job:
    """Run a call to its end."""
    (job_id,) = await road.enqueue(call)
    return await road.finished(job_id)


def is_at_work(pid: int) -> bool:
    """Tell whether a process lives; one whose end nobody has asked for yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def cancelled(road: Road, job_id: UUID) -> tuple[Job, float]:
    """Cancel a job, wait for its end, and tell how long that took."""
    begin = time.monotonic()
    async with transaction(road.record) as tx:
        await cancel_job(tx, job_id)
    job = await road.finished(job_id)
    return job, time.monotonic() - begin


async def test_cancelled_run_cleans_up_and_its_session_is_rolled_back(wide: Road, tmp_path: Path) -> None:
    """`finally` runs and may await; what the session wrote is gone; the record says so within a second."""
    (job_id,) = await wide.enqueue(running.wait.call(str(tmp_path)))
    await noted(tmp_path, "begun")

    job, took = await cancelled(wide, job_id)

    assert (job.state, [error.outcome for error in job.errors]) == (JobState.CANCELLED, ["cancelled"])
    assert took < 1.0
    assert notes(tmp_path) == ["begun", "cleaned up"]
    assert await wide.effects() == []


@pytest.mark.parametrize("task", [running.shielded, running.shielded_thread], ids=["loop", "thread"])
async def test_cancel_comes_when_the_shield_ends(wide: Road, tmp_path: Path, task: Task[[str], None]) -> None:
    """A shielded section runs to its end, and nothing after it."""
    (job_id,) = await wide.enqueue(task.call(str(tmp_path)))
    await noted(tmp_path, "begun")

    job, took = await cancelled(wide, job_id)

    assert job.state is JobState.CANCELLED
    assert 0.5 < took < 3.0
    assert notes(tmp_path) == ["begun", "shielded to its end"]


async def test_timeout_comes_when_the_shield_ends(wide: Road, tmp_path: Path) -> None:
    """What a shield defers includes the attempt's own timeout."""
    job = await run(wide, running.shielded_too_long.call(str(tmp_path)))

    assert (job.state, [error.outcome for error in job.errors]) == (JobState.DEAD, ["timed_out"])
    assert notes(tmp_path) == ["shielded to its end"]


async def test_shielded_run_is_handed_back_at_a_shutdown_when_the_shield_ends(road: Road, tmp_path: Path) -> None:
    """A worker that stops waits for the section, and burns no attempt."""
    opened = replace(road, registry=combine([diagnostics.application, trial.application, running.application]))
    settings = msgspec.structs.replace(road.settings, shutdown_seconds=0.1)
    async with relaying(settings):
        async with working(opened, settings):
            (job_id,) = await road.enqueue(running.shielded.call(str(tmp_path)))
            await noted(tmp_path, "begun")
        job = await road.job(job_id)

    assert notes(tmp_path) == ["begun", "shielded to its end"]
    assert (job.state in {JobState.PENDING, JobState.QUEUED}, job.attempt, job.errors) == (True, 0, [])


async def test_plain_function_runs_in_a_thread_with_its_trace_session_and_progress(wide: Road) -> None:
    """It is a task like others: result, an effect that commits with it, its trace, its progress."""
    job = await run(wide, running.thread.call("effect"))

    name, thread, trace_id, key = msgspec.json.decode(job.result)
    assert (job.state, name, thread, trace_id, key) == (
        JobState.SUCCEEDED, "Ada", "task-1", job.trace_id, str(job.id),
    )  # fmt: skip
    assert msgspec.json.decode(job.progress) == {"done": 2, "total": 2, "note": "whole"}
    assert await wide.effects() == [("effect", 1)]


@pytest.mark.parametrize(
    ("error", "state", "types"),
    [
        ("permanent", JobState.DEAD, ["PermanentError"]),
        ("key", JobState.DEAD, ["KeyError"]),
        ("stop", JobState.DEAD, ["RuntimeError", "RuntimeError"]),
        ("snooze", JobState.SUCCEEDED, []),
    ],
)
async def test_plain_function_fails_as_any_task_does(wide: Road, error: str, state: JobState, types: list[str]) -> None:
    """The retry policy sees the exception itself, and a wish is a wish."""
    job = await run(wide, running.failing_thread.call(error))

    assert (job.state, [one.type for one in job.errors]) == (state, types)


async def test_cancelled_thread_ends_when_it_looks_at_its_run(wide: Road, tmp_path: Path) -> None:
    """The run raises where it is used; the session is rolled back."""
    (job_id,) = await wide.enqueue(running.looking_thread.call(str(tmp_path)))
    await noted(tmp_path, "begun")

    job, took = await cancelled(wide, job_id)

    assert job.state is JobState.CANCELLED
    assert took < 1.0
    assert notes(tmp_path) == ["begun", "noticed"]
    assert await wide.effects() == []


async def test_overdue_thread_is_left_behind_when_it_does_not_look(wide: Road, tmp_path: Path) -> None:
    """The attempt ends without it, and what it does through its run later counts for nothing."""
    begin = time.monotonic()
    job = await run(wide, running.overdue_thread.call(str(tmp_path), 2.0))
    took = time.monotonic() - begin
    line = await noted(tmp_path, "interrupted")

    assert (job.state, [error.outcome for error in job.errors]) == (JobState.DEAD, ["timed_out"])
    assert took < 1.9
    assert (line, notes(tmp_path)) == ("interrupted: True", [line])
    assert bytes((await wide.job(job.id)).progress) == b"null"


async def test_threads_are_bounded(road: Road) -> None:
    """Five functions that take a tenth of a second each through one thread take half a second."""
    settings = msgspec.structs.replace(road.settings, worker_threads=1)
    opened = replace(road, registry=combine([diagnostics.application, trial.application, running.application]))
    async with relaying(settings), working(opened, settings):
        ids = await road.enqueue(*(running.thread.call(str(n)) for n in range(5)))
        jobs = [await road.finished(job_id) for job_id in ids]

    assert {msgspec.json.decode(job.result)[1] for job in jobs} == {"task-1"}


async def test_function_runs_in_a_child_process_that_is_kept(wide: Road) -> None:
    """A child of this process, warm for the next job; its output disturbs nobody; progress is on record."""
    first = await run(wide, running.process.call(1))
    second = await run(wide, running.process.call(2))

    results = [msgspec.json.decode(job.result) for job in (first, second)]
    assert [result[0] for result in results] == [1, 2]
    assert results[0][1] == results[1][1] != os.getpid()
    assert results[0][2] == os.getpid()
    assert msgspec.json.decode(second.progress) == {"done": 2, "total": 2, "note": "counted"}


@pytest.mark.parametrize(
    ("error", "state", "messages"),
    [
        ("value", JobState.DEAD, ["value"] * 2),
        ("permanent", JobState.DEAD, ["permanent"]),
        ("snooze", JobState.SUCCEEDED, []),
        ("object", JobState.DEAD, ["the result cannot be written as JSON"]),
        ("killed", JobState.DEAD, ["the process of the run was killed by SIGKILL"] * 2),
        ("exit", JobState.DEAD, ["the process of the run has ended with exit code 3"] * 2),
    ],
)
async def test_child_process_that_fails_or_dies_is_a_failed_attempt(
    wide: Road, error: str, state: JobState, messages: list[str]
) -> None:
    """With the reason, and the worker goes on."""
    job = await run(wide, running.failing_process.call(error))
    after = await run(wide, running.process.call(1))

    assert (job.state, len(job.errors)) == (state, len(messages))
    for one, message in zip(job.errors, messages, strict=True):
        assert one.message.startswith(message)
    assert after.state is JobState.SUCCEEDED


async def test_cancel_kills_the_child_and_what_it_has_started(wide: Road, tmp_path: Path) -> None:
    """A busy CPU is free within a second; `finally` has run; a process that it left behind is gone too."""
    (job_id,) = await wide.enqueue(running.spin.call(str(tmp_path), grandchild=True))
    pid = int((await noted(tmp_path, "pid")).split()[1])
    started = int((await noted(tmp_path, "started")).split()[1])

    job, took = await cancelled(wide, job_id)

    assert job.state is JobState.CANCELLED
    assert took < 1.0
    assert not psutil.pid_exists(pid)
    assert not is_at_work(started)
    assert "cleaned up" in notes(tmp_path)


async def test_overdue_child_is_killed_when_it_ignores_the_request(wide: Road, tmp_path: Path) -> None:
    """SIGTERM first, SIGKILL half a second later."""
    await run(wide, running.process.call(1))  # what starts a child is not part of the timeout; an import would be
    job = await run(wide, running.overdue_process.call(str(tmp_path)))
    pid = int((await noted(tmp_path, "pid")).split()[1])

    assert (job.state, [error.outcome for error in job.errors]) == (JobState.DEAD, ["timed_out"])
    assert "ignored" in notes(tmp_path)
    assert not psutil.pid_exists(pid)
