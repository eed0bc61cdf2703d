"""Deploys with jobs in flight: workers of two versions, renamed tasks, tasks that nobody knows."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID

import msgspec
import pytest

from headrace import diagnostics
from headrace.application import Application, Registry, combine
from headrace.database.states import JobState
from headrace.diagnostics import echo
from headrace.jobs.explain import explain_job
from headrace.resources import build_broker
from headrace.tasks.broker import RecordBroker
from headrace.tasks.contract import Task, task
from headrace.tasks.run import Run
from tests.road import MIGRATIONS, Road, eventually, relaying, working


@task("shop.greet", aliases=("shop.welcome", "greet"))
async def greet(run: Run, name: str) -> str:
    """Greet somebody."""
    return f"{run.task} {name}"


def registry_of(*tasks: Task[Any, Any]) -> Registry:
    """Return the registry of an application with these tasks."""
    return combine([diagnostics.application, Application(name="shop", tasks=tasks, migrations=MIGRATIONS[0])])


@asynccontextmanager
async def versions(road: Road, *registries: Registry, slots: Sequence[int] = (20, 20)) -> AsyncIterator[None]:
    """Run a relay, and one worker of each version."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(relaying(road.settings))
        for registry, count in zip(registries, slots, strict=False):
            settings = msgspec.structs.replace(road.settings, worker_concurrency=count)
            await stack.enter_async_context(working(_of(road, registry), settings))
        yield


def _of(road: Road, registry: Registry) -> Road:
    return Road(road.settings, registry, road.resources, road.redis, road.driver)


async def recorded(road: Road, task_name: str, greeted: str = "Ada") -> UUID:
    """Put a job on record as code of another version would have."""
    (job_id,) = await road.enqueue(greet.call(greeted))
    await road.driver.execute("UPDATE jobs SET task = $2 WHERE id = $1", job_id, task_name)
    return job_id


@pytest.mark.parametrize("name", ["shop.greet", "shop.welcome", "greet"])
async def test_job_under_an_old_name_is_run_by_the_renamed_task(road: Road, name: str) -> None:
    """What was enqueued before the rename is found by each name that the task had."""
    async with versions(road, registry_of(greet)):
        job_id = await recorded(road, name)

        job = await road.finished(job_id)

    assert (job.state, msgspec.json.decode(job.result)) == (JobState.SUCCEEDED, f"{name} Ada")
    assert job.task == name


async def test_worker_reports_the_old_names_among_its_tasks(road: Road) -> None:
    """Explain and the dispatcher know from the record that such a job has a worker."""
    async with versions(road, registry_of(greet)):
        (tasks,) = (await road.driver.fetchrow("SELECT tasks FROM processes WHERE role = 'worker'")) or ([],)

    assert {"shop.greet", "shop.welcome", "greet"} <= set(tasks)


async def test_unknown_job_is_pending_for_want_of_a_worker_and_holds_up_nobody(road: Road) -> None:
    """No live worker knows it: it is not released, says so, and the younger ones behind it run."""
    unknown = await recorded(road, "shop.of_tomorrow")

    async with versions(road, registry_of(greet)):
        behind = await road.enqueue(*(echo.call(n) for n in range(50)))
        for job_id in behind:
            await road.finished(job_id)
        explained = await explain_job(road.record, unknown)
        fence = await road.driver.fetchval("SELECT fence FROM jobs WHERE id = $1", unknown)

    assert explained.state is JobState.PENDING
    assert [reason.code for reason in explained.reasons] == ["no_worker"]
    assert fence == 0


async def test_new_jobs_run_and_old_workers_stay_quiet_while_two_versions_work(road: Road) -> None:
    """The old worker gives back what it does not know, now and then; the others behind it are not held up by that."""
    new = await road.enqueue(*(greet.call(str(n)) for n in range(30)))

    async with versions(road, registry_of(), registry_of(greet), slots=(20, 2)):
        behind = await road.enqueue(*(echo.call(n) for n in range(50)))
        jobs = [await road.finished(job_id) for job_id in [*behind, *new]]

    assert {job.state for job in jobs} == {JobState.SUCCEEDED}
    assert {job.attempt for job in jobs} == {1}
    assert {len(job.errors) for job in jobs} == {0}


async def test_job_that_came_to_an_ignorant_worker_is_pending_again_without_a_busy_loop(road: Road) -> None:
    """A worker that is believed to know the task gives it back a few times, and ever less often."""
    job_id = await recorded(road, "shop.of_tomorrow")

    async with versions(road, registry_of()):
        await road.driver.execute(
            "UPDATE processes SET tasks = array_append(tasks, 'shop.of_tomorrow') WHERE role = 'worker'"
        )

        async def says_that_it_was_given_back() -> bool:
            explained = await explain_job(road.record, job_id)
            return [reason.code for reason in explained.reasons if "given it back" in reason.message] == ["no_worker"]

        async def was_released(times: int) -> bool:
            return bool(await road.driver.fetchval("SELECT fence >= $2 FROM jobs WHERE id = $1", job_id, times))

        began_at = time.monotonic()
        await eventually(says_that_it_was_given_back)
        others = await road.enqueue(*(echo.call(n) for n in range(100)))
        for other in others:
            await road.finished(other)
        await eventually(lambda: was_released(8))
        job = await road.in_state(job_id, JobState.PENDING)

    assert time.monotonic() - began_at > 1.0  # seven returns keep it away for 1.7 s at least
    assert (job.attempt, job.errors) == (0, [])


@pytest.mark.usefixtures("redis_url")
def test_broker_of_a_renamed_task_sends_under_its_name_of_today(road: Road) -> None:
    """Aliases are for what is on record; new jobs have the new name."""
    broker: RecordBroker = build_broker(road.settings, registry_of(greet))

    assert greet.broker is broker
    assert greet.call("Ada").task == "shop.greet"
