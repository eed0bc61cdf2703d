"""A task that wants to be told of deaths is told once of each."""

from __future__ import annotations

import asyncio

import asyncpg
import msgspec
import pytest
from structlog.testing import capture_logs

from headrace.database.states import JobState
from headrace.diagnostics import echo
from headrace.jobs.follow import follow_endings
from headrace.jobs.queries import Job, JobFilter, list_jobs
from headrace.jobs.workflow import chain
from headrace.relay.following import hooks_of
from headrace.relay.rescue import rescue_once
from tests import trial
from tests.road import Road, eventually, running
from tests.workflows import end, follow, redrive, start, states

HOOKS = hooks_of({trial.told.name: trial.told})


async def hooks_on_record(road: Road) -> list[Job]:
    """Return the jobs of the task that is told, the newest first."""
    return await list_jobs(road.record, JobFilter(task=trial.told.name), limit=200)


async def test_hook_runs_when_a_job_is_dead(road: Road) -> None:
    """It is told which job, of which task, and why; it is a job below the dead one, as its own task declares."""
    async with running(road):
        (job_id,) = await road.enqueue(trial.doomed.call("permanent"))
        dead = await road.finished(job_id)
        await eventually(lambda: _is_told(road))
        (hook,) = await hooks_on_record(road)
        hook = await road.finished(hook.id)

    assert (dead.state, hook.state) == (JobState.DEAD, JobState.SUCCEEDED)
    assert (hook.parent_id, hook.queue, hook.priority, hook.max_attempts) == (job_id, "hooks", 7, 10)
    assert hook.trace_id == dead.trace_id
    rows = await road.driver.fetch("SELECT key, job_id FROM trial_effects")
    assert [tuple(row) for row in rows] == [("trial.doomed: PermanentError: never again", job_id)]


async def _is_told(road: Road) -> bool:
    return len(await hooks_on_record(road)) > 0


async def test_hook_is_told_of_each_death_when_a_job_dies_again(road: Road) -> None:
    """Retried and dead again before anybody has looked: two deaths, two hooks, each with its own error."""
    (job_id,) = await road.enqueue(trial.doomed.call("value"))
    for error in ("first", "second"):
        await end(road, job_id, JobState.DEAD)
        await road.driver.execute(
            "INSERT INTO job_attempts (job_id, attempt, fence, outcome, type, message, traceback, trace_id) "
            "SELECT id, attempt, fence, 'failed', 'ValueError', $2, '', '' FROM jobs WHERE id = $1",
            job_id,
            error,
        )
        if error == "first":
            await redrive(road, job_id)

    await follow(road, HOOKS)

    told = [msgspec.json.decode(hook.args)["error"] for hook in await hooks_on_record(road)]
    assert sorted(told) == ["ValueError: first", "ValueError: second"]


async def test_no_hook_is_told_when_a_job_ends_otherwise(road: Road) -> None:
    """Success, cancellation and expiry are no deaths; neither is an attempt that will be made again."""
    for ending in (JobState.SUCCEEDED, JobState.CANCELLED, JobState.EXPIRED):
        (job_id,) = await road.enqueue(trial.doomed.call("value"))
        await end(road, job_id, ending)
    (job_id,) = await road.enqueue(trial.doomed.call("value"))
    for state in ("queued", "running", "retrying"):
        await road.driver.execute("UPDATE jobs SET state = CAST($2::text AS job_state) WHERE id = $1", job_id, state)

    assert await follow(road, HOOKS) == 0
    assert await hooks_on_record(road) == []


async def test_children_are_followed_when_their_parent_has_a_hook_besides(road: Road) -> None:
    """A job may have both: its death is told, and its success lets its children start."""
    ids = await start(road, chain(trial.doomed.call("value"), echo.call(1)))

    await end(road, ids["1"], JobState.DEAD)
    await follow(road, HOOKS)
    await redrive(road, ids["1"])
    await end(road, ids["1"], JobState.SUCCEEDED)
    await follow(road, HOOKS)

    assert [hook.parent_id for hook in await hooks_on_record(road)] == [ids["1"]]
    assert await states(road, ids) == {"1": "succeeded", "2": "pending"}


async def test_hook_is_told_when_a_job_dies_with_its_worker(road: Road) -> None:
    """Whoever records the death: here the rescue of a job whose worker is gone for good."""
    (job_id,) = await road.enqueue(trial.doomed.call("value"))
    for state in ("queued", "running"):
        await road.driver.execute("UPDATE jobs SET state = CAST($2::text AS job_state) WHERE id = $1", job_id, state)
    await road.driver.execute("UPDATE jobs SET attempt = max_attempts, worker_id = id WHERE id = $1", job_id)

    await rescue_once(road.record, lease_seconds=0.0)
    await follow(road, HOOKS)

    (hook,) = await hooks_on_record(road)
    assert b"WorkerLost: the worker" in bytes(hook.args)


async def test_hook_is_kept_when_its_task_is_unknown_here(road: Road) -> None:
    """A newer version may know it: its job waits in the dead job's queue, and a line in the log says so."""
    (job_id,) = await road.enqueue(trial.doomed.call("value"))
    await end(road, job_id, JobState.DEAD)

    with capture_logs() as logs:
        await follow(road, {})

    (hook,) = await hooks_on_record(road)
    assert (hook.state, hook.queue, hook.parent_id) == (JobState.PENDING, "default", job_id)
    assert [(line["event"], line["task"]) for line in logs] == [("on_dead_unknown", "trial.told")]


@pytest.mark.parametrize("followers", [1, 4])
async def test_hook_is_told_once_when_followers_die_and_race(road: Road, database_url: str, followers: int) -> None:
    """Connections that are cut in the middle, and several at once: one hook for each of a hundred deaths."""
    ids = await road.enqueue(*(trial.doomed.call("value") for _ in range(100)))
    for job_id in ids:
        await end(road, job_id, JobState.DEAD)

    async def follow_until_cut(endings: int) -> None:
        connection = await asyncpg.connect(database_url)
        following = asyncio.create_task(follow_endings(connection, HOOKS, limit=endings))
        await asyncio.sleep(0.001 * endings)  # where it is cut is left to chance
        connection.terminate()
        await asyncio.gather(following, return_exceptions=True)

    for endings in range(1, 12):
        await asyncio.gather(*(follow_until_cut(endings) for _ in range(followers)))
    await eventually(lambda: _nothing_to_follow(road))

    hooks = await hooks_on_record(road)
    assert sorted(hook.parent_id for hook in hooks if hook.parent_id) == sorted(ids)


async def _nothing_to_follow(road: Road) -> bool:
    await follow(road, HOOKS)
    return bool(await road.driver.fetchval("SELECT count(*) FROM job_endings") == 0)
