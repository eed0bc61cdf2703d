"""Several queues on the same workers: their room is one, given by priority and shared fairly."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from headrace.database.states import JobState
from headrace.diagnostics import sleep
from headrace.jobs.call import Call, Options
from headrace.jobs.queues import register_queues
from tests.fleet import entered, held
from tests.intervals import most_at_once
from tests.road import Road, eventually, relaying, working

SLOTS = 8


def flood(queue: str, count: int, *, priority: int = 5) -> list[Call]:
    """Return calls that take a tenth of a second each."""
    return [sleep.options(Options(queue=queue, priority=priority)).call(0.1) for _ in range(count)]


async def begun(road: Road) -> bool:
    """Tell whether all slots are taken."""
    return (await road.counts()).get("running", 0) >= SLOTS


@pytest.mark.parametrize("queue", ["a", "elsewhere"])
async def test_high_priority_waits_for_running_jobs_only_when_low_ones_flood_all_queues(road: Road, queue: str) -> None:
    """Three queues are flooded; one job of priority 9, in one of them or in another, starts among the next ones."""
    settings = msgspec.structs.replace(road.settings, worker_concurrency=SLOTS)
    await register_queues(road.record.engine, ["a", "b", "c", "elsewhere"])  # a new one is found within a second
    await road.enqueue(*(call for name in ("a", "b", "c") for call in flood(name, 150, priority=1)))
    async with relaying(settings), working(road, settings):
        await eventually(lambda: begun(road))
        await asyncio.sleep(0.3)

        (high,) = await road.enqueue(*flood(queue, 1, priority=9))
        job = await road.finished(high)

    assert job.started_at is not None
    between = [
        at
        for name in ("a", "b", "c")
        for at in await entered(road.driver, name, JobState.RUNNING)
        if job.created_at < at < job.started_at
    ]
    assert len(between) <= SLOTS + 4  # 50 ms of work may lie on the belt


async def test_floods_share_the_slots_when_they_are_equal_in_priority(road: Road) -> None:
    """Two queues get half each, the later one too, and together no more than the workers can soon take."""
    settings = msgspec.structs.replace(road.settings, worker_concurrency=SLOTS)
    await road.enqueue(*flood("a", 300))
    async with relaying(settings), working(road, settings):
        await eventually(lambda: begun(road))
        await road.enqueue(*flood("b", 300))
        await asyncio.sleep(2.5)

    a, b = [(await held(road.driver, queue))[None] for queue in ("a", "b")]
    begun_a, begun_b = [await entered(road.driver, queue, JobState.RUNNING) for queue in ("a", "b")]
    beside = [at for at in begun_a if at >= min(begun_b)]  # the first queue had all slots until then
    assert most_at_once([*a, *b]) <= SLOTS + 8
    assert len(begun_b) > 0.4 * (len(begun_b) + len(beside))


async def test_low_priority_is_not_starved_when_another_queue_is_flooded_with_high(road: Road) -> None:
    """A waiting queue with nothing under way gets a slot before anybody else."""
    settings = msgspec.structs.replace(road.settings, worker_concurrency=SLOTS)
    await road.enqueue(*flood("high", 300, priority=9))
    async with relaying(settings), working(road, settings):
        await eventually(lambda: begun(road))
        await road.enqueue(*flood("low", 5, priority=0))

        async def low_ran() -> bool:
            return len(await entered(road.driver, "low", JobState.SUCCEEDED)) == 5

        await eventually(low_ran)
        waiting = (await road.counts()).get("pending", 0)

    assert waiting > 0


async def test_workers_of_one_queue_are_full_when_shared_ones_are_taken_too(road: Road) -> None:
    """A flood of a queue fills its own workers and the shared ones; another queue then gets a shared slot."""
    own = msgspec.structs.replace(road.settings, worker_concurrency=4, queues="a")
    shared = msgspec.structs.replace(road.settings, worker_concurrency=4, queues="a,b")
    await road.enqueue(*flood("a", 200))
    async with relaying(own), working(road, own), working(road, shared):
        await eventually(lambda: begun(road))
        (other,) = await road.enqueue(*flood("b", 1))
        job = await road.finished(other)
        still = (await road.counts()).get("pending", 0)

    assert job.state is JobState.SUCCEEDED
    assert still > 0
    assert most_at_once((await held(road.driver, "a"))[None]) >= 8
