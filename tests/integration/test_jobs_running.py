"""Jobs on the whole road: released, claimed, run under Taskiq's receiver, settled."""

from __future__ import annotations

import asyncio
from uuid import UUID

import msgspec
import pytest

from headrace.database.states import JobState
from headrace.diagnostics import count, echo, fail, sleep
from headrace.errors import ConfigurationError
from headrace.jobs.belt import stream_of
from headrace.jobs.call import Call, Options
from headrace.jobs.cancel import cancel_job
from headrace.jobs.queries import Job
from headrace.settings import Settings
from headrace.transaction import transaction
from tests import trial
from tests.road import Road, eventually, relaying, running, working


async def run(road: Road, *calls: Call) -> list[Job]:
    """Run calls to their end and return their jobs."""
    async with running(road):
        ids = await road.enqueue(*calls)
        return [await road.finished(job_id) for job_id in ids]


def outcomes(job: Job) -> list[tuple[str, str]]:
    """Return what the job's attempts ended with."""
    return [(error.outcome, error.type) for error in job.errors]


async def test_kiq_returns_the_result_and_the_error(road: Road) -> None:
    """Taskiq's way to wait for a result works for what succeeds and what fails."""
    async with running(road):
        good = await (await trial.add.kiq(2, b=3)).wait_result(check_interval=0.01, timeout=10)
        bad = await (await trial.fail.kiq("permanent")).wait_result(check_interval=0.01, timeout=10)

    assert (good.is_err, good.return_value) == (False, 5)
    assert bad.is_err
    assert str(bad.error) == "PermanentError: never again"
    with pytest.raises(RuntimeError, match="never again"):
        bad.raise_for_error()


async def test_every_job_runs_once_when_there_are_many(road: Road) -> None:
    """A thousand jobs through twenty slots: each succeeded at its first attempt, the belt is empty after."""
    async with running(road):
        await road.enqueue(*(echo.call(n) for n in range(1000)))
        counts = await road.all_finished()

        assert counts == {"succeeded": 1000}
        assert await road.driver.fetchval("SELECT count(*) FROM jobs WHERE attempt = 1 AND fence = 1") == 1000
        rows = await road.driver.fetch("SELECT args->'value', result FROM jobs")
        assert all(value == result for value, result in rows)
        await eventually(lambda: _is_empty(road, "default"))


async def _is_empty(road: Road, queue: str) -> bool:
    stream = stream_of(queue)
    (group,) = await road.redis.xinfo_groups(stream)
    return await road.redis.xlen(stream) == 0 and group["pending"] == 0


async def test_failing_job_is_dead_with_every_error_when_its_attempts_are_used_up(road: Road) -> None:
    """Three attempts, three errors, in order, each with its traceback."""
    (job,) = await run(road, trial.fail.call("value"))

    assert (job.state, job.attempt) == (JobState.DEAD, 3)
    assert [(error.attempt, error.message) for error in job.errors] == [(n, "as asked") for n in (1, 2, 3)]
    assert all("ValueError: as asked" in error.traceback for error in job.errors)


async def test_failing_job_succeeds_when_a_later_attempt_does(road: Road) -> None:
    """Two failures and a success: the result, and both errors on record."""
    (job,) = await run(road, fail.call(2))

    assert (job.state, job.attempt, msgspec.json.decode(job.result)) == (JobState.SUCCEEDED, 3, 3)
    assert [error.attempt for error in job.errors] == [1, 2]


@pytest.mark.parametrize(
    ("call", "ends"),
    [
        (trial.fail.call("permanent"), [("failed", "PermanentError")]),
        (trial.fail.call("exit"), [("failed", "SystemExit")]),
        (trial.fail.call("group"), [("failed", "BaseExceptionGroup")]),
        (trial.fail.call("cancelled"), [("failed", "RuntimeError")] * 3),
        (trial.fail.call("unspeakable"), [("failed", "UnspeakableError")] * 3),
        (trial.fail.call("nul"), [("failed", "ValueError")] * 3),
        (trial.picky.call(), [("failed", "ValueError")]),
        (trial.overdue.call(), [("timed_out", "TimeoutError")] * 3),
        (trial.give.call("object"), [("rejected", "TypeError")]),
        (trial.give.call("large"), [("rejected", "ValueError")]),
        (trial.give.call("nul"), [("rejected", "ValueError")]),
    ],
    ids=lambda value: f"{value.task}({bytes(value.args).decode()})" if isinstance(value, Call) else "",
)
async def test_job_is_dead_with_its_reason_and_the_queue_moves_on(
    road: Road, call: Call, ends: list[tuple[str, str]]
) -> None:
    """Whatever a task raises or returns is an outcome on record, and the worker goes on."""
    odd, ordinary = await run(road, call, echo.call("after"))

    assert (odd.state, outcomes(odd)) == (JobState.DEAD, ends)
    assert ordinary.state is JobState.SUCCEEDED


async def test_job_is_dead_with_the_reason_when_its_arguments_do_not_fit_this_code(road: Road) -> None:
    """A schema that changed under a waiting job is visible, and burns one attempt only."""
    (job_id,) = await road.enqueue(trial.add.call(1))
    await road.driver.execute("""UPDATE jobs SET args = '{"a": "one", "c": 3}'""")

    async with running(road):
        job = await road.finished(job_id)

    assert (job.state, outcomes(job)) == (JobState.DEAD, [("rejected", "ValidationError")])
    assert "the arguments do not fit the task trial.add" in job.errors[0].message


async def test_job_of_an_unknown_task_waits_for_a_worker_that_knows_it(road: Road) -> None:
    """A deploy in progress loses nothing: the job is pending, not dropped, and runs when the task is there."""
    (unknown,) = await road.enqueue(echo.call(1))
    await road.driver.execute("UPDATE jobs SET task = 'shop.of_tomorrow'")

    async with running(road):
        (known,) = await road.enqueue(echo.call(2))
        await road.finished(known)
        waiting = await road.job(unknown)
        await road.driver.execute("UPDATE jobs SET task = 'diagnostics.echo' WHERE id = $1", unknown)
        job = await road.finished(unknown)

    assert (waiting.state, waiting.attempt) == (JobState.PENDING, 0)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)


async def test_effects_happen_once_when_attempts_fail_after_the_write(road: Road) -> None:
    """What a failed attempt wrote through its session is gone; the attempt that succeeded left its row."""
    (job,) = await run(road, trial.write.call("a", fail_first=2))

    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 3)
    assert await road.effects() == [("a", 3)]


async def test_effects_and_new_jobs_commit_with_the_outcome(road: Road) -> None:
    """A task that writes and enqueues does both, or neither."""
    async with running(road):
        (job_id,) = await road.enqueue(trial.write_and_enqueue.call("a"))
        job = await road.finished(job_id)
        child = await road.finished(msgspec.json.decode(job.result, type=UUID))

    assert child.state is JobState.SUCCEEDED
    assert await road.effects() == [("a", 1)]


async def test_effects_are_gone_when_the_result_cannot_be_stored(road: Road) -> None:
    """A dead job has done nothing in PostgreSQL."""
    (job,) = await run(road, trial.write_unstorable.call("a"))

    assert (job.state, outcomes(job)) == (JobState.DEAD, [("rejected", "TypeError")])
    assert await road.effects() == []


async def test_sessions_wait_in_line_when_there_are_more_runs_than_connections(road: Road) -> None:
    """Twenty runs, each holding its session for a while, and one connection for them: nobody's attempt fails of it."""
    settings = msgspec.structs.replace(road.settings, database_pool_size=3, worker_concurrency=20)
    async with relaying(settings), working(road, settings):
        await road.enqueue(*(trial.write.call(str(n), 0.1) for n in range(20)))

        counts = await road.all_finished()

    assert counts == {"succeeded": 20}
    assert {attempt for _, attempt in await road.effects()} == {1}


async def test_running_job_is_cancelled_when_asked(road: Road) -> None:
    """The coroutine is cancelled, the job is cancelled, the worker goes on."""
    async with running(road):
        (job_id,) = await road.enqueue(sleep.call(60.0))
        await road.in_state(job_id, JobState.RUNNING)
        async with transaction(road.record) as tx:
            await cancel_job(tx, job_id)
        job = await road.finished(job_id)
        (after,) = await road.enqueue(echo.call(1))
        await road.finished(after)

    assert (job.state, outcomes(job)) == (JobState.CANCELLED, [("cancelled", "CancelledError")])


async def test_running_session_is_rolled_back_when_its_job_is_cancelled(road: Road) -> None:
    """A cancelled run leaves nothing."""
    async with running(road):
        (job_id,) = await road.enqueue(trial.write.call("a", 60.0))
        await road.in_state(job_id, JobState.RUNNING)
        async with transaction(road.record) as tx:
            await cancel_job(tx, job_id)
        job = await road.finished(job_id)

    assert job.state is JobState.CANCELLED
    assert await road.effects() == []


async def test_task_that_ignores_its_cancellation_ends_as_it_likes(road: Road) -> None:
    """What it returns counts, and the next job on the same slot is not disturbed."""
    settings = msgspec.structs.replace(road.settings, worker_concurrency=1)
    async with relaying(settings), working(road, settings):
        stubborn, after = await road.enqueue(trial.stubborn.call(0.05), echo.call(1))
        await road.in_state(stubborn, JobState.RUNNING)
        async with transaction(road.record) as tx:
            await cancel_job(tx, stubborn)

        states = [(await road.finished(job_id)).state for job_id in (stubborn, after)]

    assert states == [JobState.SUCCEEDED, JobState.SUCCEEDED]


async def test_progress_is_seen_while_the_job_runs(road: Road) -> None:
    """Others see how far it is before it ends."""
    async with running(road):
        (job_id,) = await road.enqueue(count.call(100, 0.02))

        async def progressed() -> bool:
            job = await road.job(job_id)
            return job.state is JobState.RUNNING and bytes(job.progress) != b"null"

        await eventually(progressed)
        job = await road.finished(job_id)

    assert msgspec.json.decode(job.progress) == {"done": 100, "total": 100, "note": "counted to 100"}


async def test_run_under_a_live_worker_that_does_not_have_it_is_given_up(road: Road) -> None:
    """The answer to a claim was lost with a connection: the job does not stay `running` for ever."""
    async with running(road) as broker:
        (job_id,) = await road.enqueue(echo.options(Options(queue="elsewhere", delay_seconds=3600)).call(1))
        for state in ("pending", "queued", "running"):
            await road.driver.execute("UPDATE jobs SET state = CAST($1::text AS job_state)", state)
        await road.driver.execute(
            "UPDATE jobs SET run_at = now(), fence = 1, attempt = 1, started_at = now() - interval '3 s',"
            " worker_id = $1",
            broker.worker.identity.id,
        )

        job = await road.finished(job_id)

    assert (job.state, job.attempt, outcomes(job)) == (JobState.SUCCEEDED, 2, [("lost", "RunLost")])


async def test_run_that_was_given_to_others_is_stopped(road: Road) -> None:
    """A zombie is cancelled within seconds, and nothing of it counts."""
    async with running(road):
        (job_id,) = await road.enqueue(trial.write.call("a", 60.0))
        await road.in_state(job_id, JobState.RUNNING)
        await road.driver.execute("UPDATE jobs SET state = 'cancelled', finished_at = now()")

        async def stopped() -> bool:
            held = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
            return bool(await road.driver.fetchval(held) == 0)

        await eventually(stopped)

    assert await road.effects() == []


async def test_settings_choose_the_queues_of_a_worker(road: Road) -> None:
    """A worker for one queue leaves the others alone."""
    settings = msgspec.structs.replace(road.settings, queues="mail, reports,")
    async with relaying(settings), working(road, settings):
        mail, other = await road.enqueue(echo.options(Options(queue="mail")).call(1), echo.call(2))

        assert (await road.finished(mail)).state is JobState.SUCCEEDED
        assert (await road.job(other)).state is JobState.PENDING


async def test_worker_that_cannot_start_leaves_nothing_open(road: Road) -> None:
    """A provider that fails at the start: the error is told, the record closed, nobody registered."""
    before = asyncio.all_tasks()
    broken = Settings(database_url=road.settings.database_url, redis_url="nonsense://", lease_seconds=1.0)

    with pytest.raises(ConfigurationError, match=r"nonsense|scheme"):
        async with working(road, broken):
            pass

    assert asyncio.all_tasks() == before
    assert await road.driver.fetchval("SELECT count(*) FROM processes") == 0
