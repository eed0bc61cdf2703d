"""How attempts end, on the whole road: wishes, per-call settings, results that nobody keeps, losses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID

import msgspec
import pytest

from headrace import diagnostics
from headrace.application import combine
from headrace.clock import new_id
from headrace.database.states import JobState
from headrace.diagnostics import echo
from headrace.jobs.call import Call, Options
from headrace.jobs.cancel import cancel_job
from headrace.jobs.queries import Job
from headrace.jobs.redrive import Changes, redrive_job
from headrace.relay.rescue import rescue_once
from headrace.transaction import transaction
from tests import outcomes, trial
from tests.road import Road, relaying, working

REGISTRY = combine([diagnostics.application, trial.application, outcomes.application])


@asynccontextmanager
async def running(road: Road) -> AsyncIterator[None]:
    """Run a relay and a worker that knows the application `outcomes` as well."""
    wider = Road(road.settings, REGISTRY, road.resources, road.redis, road.driver)
    async with relaying(road.settings), working(wider):
        yield


async def run(road: Road, call: Call) -> Job:
    """Run a call to its end and return its job."""
    async with running(road):
        (job_id,) = await road.enqueue(call)
        return await road.finished(job_id)


def ends(job: Job) -> list[tuple[str, str, str]]:
    """Return what the job's attempts ended with."""
    return [(error.outcome, error.type, error.message) for error in job.errors]


async def test_snoozed_job_runs_again_without_counting_attempts_and_keeps_what_it_wrote(road: Road) -> None:
    """Twenty snoozes of a job with ten attempts: each commits its effect, none is an error, and it succeeds."""
    job = await run(road, outcomes.snooze.call(20))

    assert (job.state, job.attempt, msgspec.json.decode(job.result)) == (JobState.SUCCEEDED, 1, 21)
    assert job.errors == []
    assert await road.effects() == [("snooze", 1)] * 21


async def test_raised_snooze_rolls_back(road: Road) -> None:
    """The job is scheduled for later, its attempt is given back, and nothing of it is left."""
    async with running(road):
        (job_id,) = await road.enqueue(outcomes.snooze_raised.call())
        await road.driver.execute("UPDATE jobs SET lost = 2")
        job = await road.in_state(job_id, JobState.SCHEDULED)
        lost = await road.driver.fetchval("SELECT lost FROM jobs")

    assert (job.attempt, job.errors) == (0, [])
    assert job.run_at - job.created_at > timedelta(seconds=3590)
    assert await road.effects() == []
    assert lost == 0


async def test_snoozed_job_is_cancelled_when_somebody_asked_for_it_meanwhile(road: Road) -> None:
    """A task that snoozes for ever can be stopped, whenever the request comes."""
    async with running(road):
        (job_id,) = await road.enqueue(outcomes.snooze.call(1_000_000))
        await road.in_state(job_id, JobState.RUNNING, JobState.SCHEDULED)
        async with transaction(road.record) as tx:
            await cancel_job(tx, job_id)
        job = await road.finished(job_id)

    assert job.state is JobState.CANCELLED


@pytest.mark.parametrize("raised", [False, True])
async def test_cancel_ends_the_job_and_returned_it_commits(road: Road, *, raised: bool) -> None:
    """The reason is on record; what was written stays only where the task returned."""
    job = await run(road, outcomes.cancel.call("the order is gone", raised=raised))

    assert job.state is JobState.CANCELLED
    assert ends(job) == [("cancelled", "Cancel", "the order is gone")]
    assert await road.effects() == ([] if raised else [("cancel", 1)])


async def test_nothing_is_stored_when_the_task_keeps_no_result(road: Road) -> None:
    """A result over the limit is none of its business, and the job leaves when its own retention is over."""
    job = await run(road, outcomes.resultless.call())
    row = await road.driver.fetchrow("SELECT result, forget_at - finished_at AS kept FROM jobs")

    assert (job.state, bytes(job.result)) == (JobState.SUCCEEDED, b"null")
    assert row is not None
    assert (row["result"], row["kept"]) == (None, timedelta(seconds=60))


async def test_call_sets_its_own_bound_and_delays(road: Road) -> None:
    """Three attempts of 50 ms each, a moment apart, of a task that would wait an hour between them."""
    options = Options(timeout_seconds=0.05, first_delay_seconds=0.01, max_delay_seconds=0.02)

    job = await run(road, outcomes.wait.options(options).call(30.0))

    assert (job.state, job.attempt) == (JobState.DEAD, 3)
    assert [error.outcome for error in job.errors] == ["timed_out"] * 3


async def test_call_keeps_what_its_task_declares_when_it_sets_nothing(road: Road) -> None:
    """The hour between the attempts is the task's."""
    async with running(road):
        (job_id,) = await road.enqueue(outcomes.wait.options(Options(timeout_seconds=0.05)).call(30.0))
        await road.in_state(job_id, JobState.RETRYING)

        stored = await road.driver.fetchval("SELECT overrides FROM jobs")

    assert msgspec.json.decode(stored) == {"timeout_seconds": 0.05}
    assert await road.driver.fetchval("SELECT run_at > now() + interval '1 s' FROM jobs")


async def lose(road: Road, job_id: UUID) -> Job:
    """Let a job be claimed by a worker that is dead at once, and rescue it."""
    await road.driver.execute("UPDATE jobs SET state = 'queued' WHERE id = $1", job_id)
    await road.driver.execute(
        "UPDATE jobs SET state = 'running', attempt = attempt + 1, fence = fence + 1, worker_id = $2, "
        "started_at = now() WHERE id = $1",
        job_id,
        new_id(),
    )
    assert await rescue_once(road.record, lease_seconds=0.0) == 1
    return await road.job(job_id)


async def test_job_is_quarantined_at_the_third_loss_and_counts_anew_when_it_is_retried(road: Road) -> None:
    """Three losses are told apart from failures, say what to do, and a person's retry begins from nought."""
    (job_id,) = await road.enqueue(outcomes.poison.call())

    states = [(await lose(road, job_id)).state for _ in range(3)]
    job = await road.job(job_id)
    async with transaction(road.record) as tx:
        await redrive_job(tx, job_id, attempts=10)
    again = [(await lose(road, job_id)).state for _ in range(2)]

    assert states == [JobState.PENDING, JobState.PENDING, JobState.DEAD]
    assert [(error.outcome, error.type) for error in job.errors] == [
        ("lost", "WorkerLost"),
        ("lost", "WorkerLost"),
        ("lost", "Quarantined"),
    ]
    assert job.errors[-1].message.startswith("3 workers died")
    assert "then retry the job" in job.errors[-1].message
    assert again == [JobState.PENDING, JobState.PENDING]


async def test_job_is_dead_of_its_attempts_when_they_are_fewer_than_the_losses(road: Road) -> None:
    """A job that may be tried once only is not tried again, and is not called poisonous for it."""
    (job_id,) = await road.enqueue(echo.options(Options(max_attempts=1)).call(1))

    job = await lose(road, job_id)

    assert (job.state, [error.type for error in job.errors]) == (JobState.DEAD, ["WorkerLost"])


async def test_losses_are_as_many_as_the_task_allows(road: Road) -> None:
    """A task that is known to be hard on its machines may be allowed more."""
    (job_id,) = await road.enqueue(outcomes.tough.call())

    states = [(await lose(road, job_id)).state for _ in range(5)]

    assert states == [JobState.PENDING] * 4 + [JobState.DEAD]


async def test_failures_are_no_losses(road: Road) -> None:
    """An attempt that failed says so, and is not counted among the workers that died."""
    job = await run(road, trial.fail.call("value"))

    assert [error.outcome for error in job.errors] == ["failed"] * 3
    assert await road.driver.fetchval("SELECT lost FROM jobs") == 0


async def test_retry_with_other_arguments_runs_with_them_and_keeps_those_of_before(road: Road) -> None:
    """What was wrong is mended, and the record still says what the first attempts were made with."""
    (job_id,) = await road.enqueue(trial.fail.options(Options(max_attempts=1)).call("value"))
    async with running(road):
        dead = await road.finished(job_id)
        async with transaction(road.record) as tx:
            await redrive_job(tx, job_id, attempts=3, changes=Changes(trial.fail.call("permanent").args, 1))
        await road.finished(job_id)
        async with transaction(road.record) as tx:
            await redrive_job(tx, job_id, attempts=3, changes=Changes(trial.fail.call("permanent").args))
        job = await road.finished(job_id)

    assert dead.former_args == []
    assert msgspec.json.decode(job.args) == {"error": "permanent"}
    assert [(msgspec.json.decode(one.args), one.attempt) for one in job.former_args] == [({"error": "value"}, 1)]
    assert [error.type for error in job.errors] == ["ValueError", "PermanentError", "PermanentError"]


async def test_jobs_that_were_lost_together_twice_are_tried_again_one_after_another(road: Road) -> None:
    """At first all at once; then apart, so that the one that kills its workers is found and the others survive."""
    ids = await road.enqueue(*(echo.call(n) for n in range(4)))

    at_once = await lose_all(road)
    apart = await lose_all(road)
    delays = await road.driver.fetch("SELECT extract(epoch FROM run_at - now())::float8 FROM jobs ORDER BY id")

    assert at_once == [JobState.PENDING] * 4
    assert apart == [JobState.PENDING] + [JobState.RETRYING] * 3
    assert [round(row[0]) for row in delays[1:]] == [2, 4, 6]
    assert len(ids) == 4


async def lose_all(road: Road) -> list[JobState]:
    """Let all jobs be claimed by a worker that is dead at once, and rescue them."""
    await road.driver.execute("UPDATE jobs SET state = 'pending', run_at = now() WHERE state = 'retrying'")
    await road.driver.execute("UPDATE jobs SET state = 'queued'")
    await road.driver.execute(
        "UPDATE jobs SET state = 'running', attempt = attempt + 1, fence = fence + 1, worker_id = $1, "
        "started_at = now()",
        new_id(),
    )
    await rescue_once(road.record, lease_seconds=0.0)
    states = await road.driver.fetch("SELECT state FROM jobs ORDER BY id")
    return [JobState(row["state"]) for row in states]
