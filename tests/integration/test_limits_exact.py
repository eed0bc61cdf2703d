"""Limits are exact: under many workers, under two leaders at once, and from the moment of their answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

from headrace.database.states import JobState
from headrace.diagnostics import echo
from headrace.jobs.call import Call, Options
from headrace.jobs.limits import Limits, Rate, set_limits
from headrace.jobs.queues import register_queues
from headrace.jobs.standing import set_paused
from headrace.relay.gate import Gate
from tests.fleet import entered, fleet, held
from tests.intervals import most_at_once, most_within
from tests.road import Road, eventually

FIFTY = [f"customer-{n}" for n in range(50)]


def calls(count: int, *, keys: Sequence[str | None] = (None,), priority: int = 5) -> list[Call]:
    """Return calls for the queue `tight`, their concurrency keys in turn."""
    options = [
        Options(queue="tight", concurrency_key=keys[n % len(keys)], priority=priority, max_attempts=1000)
        for n in range(count)
    ]
    return [echo.options(chosen).call(n) for n, chosen in enumerate(options)]


async def limit(road: Road, limits: Limits) -> None:
    """Set the limits of the queue `tight`."""
    async with road.transaction() as tx:
        await set_limits(tx, "tight", limits)


@pytest.mark.parametrize("concurrency", [1, 5])
async def test_concurrency_is_never_exceeded_when_leaders_and_workers_compete(road: Road, concurrency: int) -> None:
    """Three leaders and five workers, with jobs that come back: never more in flight than the limit, and all end."""
    await limit(road, Limits(concurrency=concurrency))
    await road.enqueue(*calls(150))

    async with fleet(road, leaders=3, workers=5, fault=0.1):
        counts = await road.all_finished(60)

    assert counts == {"succeeded": 150}
    assert most_at_once((await held(road.driver, "tight"))[None]) == concurrency


async def test_rate_is_never_exceeded_in_any_window_when_leaders_and_workers_compete(road: Road) -> None:
    """Starts of jobs that came back are starts too; and the rate is used up, not just kept."""
    await limit(road, Limits(rate=Rate(limit=20, per_seconds=0.5)))
    await road.enqueue(*calls(150))

    async with fleet(road, leaders=3, workers=5, fault=0.1):
        counts = await road.all_finished(60)

    started = await entered(road.driver, "tight", JobState.RUNNING)
    assert counts == {"succeeded": 150}
    assert most_within(started, 0.5) == 20
    assert (max(started) - min(started)).total_seconds() < 2 * 0.5 * len(started) / 20


@pytest.mark.parametrize("per_key", [None, 3])
async def test_key_is_never_held_by_more_than_may_when_leaders_and_workers_compete(
    road: Road, per_key: int | None
) -> None:
    """Ten workers and fifty keys: one job of each at once, or as many as the queue allows, and none is left over."""
    if per_key is not None:
        await limit(road, Limits(per_key_concurrency=per_key))
    await road.enqueue(*calls(400, keys=FIFTY))

    async with fleet(road, leaders=2, workers=10, fault=0.05):
        counts = await road.all_finished(90)

    most = [most_at_once(intervals) for intervals in (await held(road.driver, "tight")).values()]
    assert counts == {"succeeded": 400}
    assert (len(most), max(most)) == (50, per_key or 1)


async def test_all_limits_hold_when_they_are_set_together(road: Road) -> None:
    """A queue may have all three, and jobs with and without a key."""
    await limit(road, Limits(concurrency=6, rate=Rate(limit=30, per_seconds=0.4), per_key_concurrency=2))
    await road.enqueue(*calls(200, keys=[None, "a", "b", None, "a"]))

    async with fleet(road, leaders=2, workers=6, fault=0.05):
        counts = await road.all_finished(60)

    by_key = await held(road.driver, "tight")
    assert counts == {"succeeded": 200}
    assert most_at_once([interval for intervals in by_key.values() for interval in intervals]) <= 6
    assert most_within(await entered(road.driver, "tight", JobState.RUNNING), 0.4) <= 30
    assert max(most_at_once(by_key["a"]), most_at_once(by_key["b"])) <= 2


@pytest.mark.parametrize(
    ("limits", "keys"),
    [
        (Limits(concurrency=3), (None,)),
        (Limits(rate=Rate(limit=3, per_seconds=60)), (None,)),
        (Limits(per_key_concurrency=3), ("a",)),
    ],
)
async def test_limit_holds_when_two_leaders_release_at_the_same_instant(
    road: Road, limits: Limits, keys: Sequence[str | None]
) -> None:
    """While one has counted and not committed, the other passes the queue over; after that it finds it full."""
    await limit(road, limits)
    await road.enqueue(*calls(10, keys=keys))
    tasks = sorted(road.registry.tasks)
    other = await asyncpg.connect(road.settings.database_url)

    async with road.driver.transaction():
        first = await Gate().release(road.driver, {"tight": 10}, tasks)
        await road.enqueue(*calls(10, keys=keys, priority=9))
        meanwhile = await asyncio.wait_for(Gate().release(other, {"tight": 10}, tasks), 5)
    later = await Gate().release(other, {"tight": 10}, tasks)
    await other.close()

    assert (len(first.released), len(meanwhile.released), len(later.released)) == (3, 0, 0)


async def test_limit_counts_from_its_answer_when_leaders_are_at_full_speed(road: Road) -> None:
    """What was released before may end; after the answer no job is released while the queue is full."""
    await road.enqueue(*calls(600))
    async with fleet(road, leaders=2, workers=4, slots=25):
        await asyncio.sleep(0.1)
        await limit(road, Limits(concurrency=2))
        answered = await road.driver.fetchval("SELECT clock_timestamp()")
        await asyncio.sleep(0.5)

    intervals = (await held(road.driver, "tight"))[None]
    released_later = [at for at in await entered(road.driver, "tight", JobState.QUEUED) if at > answered]
    full = [sum(begin <= at < end for begin, end in intervals) for at in released_later]
    assert len(released_later) > 0
    assert max(full) <= 2


@pytest.mark.parametrize("keys", [(None,), ("a", None, "b")])
async def test_pause_counts_from_its_answer_when_leaders_are_at_full_speed(
    road: Road, keys: Sequence[str | None]
) -> None:
    """After the answer nothing is released, whatever leaders had measured before, also of jobs that were parked."""

    async def begun() -> bool:
        return bool(await entered(road.driver, "tight", JobState.QUEUED))

    await register_queues(road.record.engine, ["tight"])
    await road.enqueue(*calls(3000, keys=keys))
    async with fleet(road, leaders=3, workers=4, slots=25):
        await eventually(begun)
        for _ in range(5):
            await asyncio.sleep(0.15)
            async with road.transaction() as tx:
                await set_paused(tx, "tight", paused=True)
            answered = await road.driver.fetchval("SELECT clock_timestamp()")
            await asyncio.sleep(0.1)

            released = await entered(road.driver, "tight", JobState.QUEUED)

            assert max(released) < answered
            async with road.transaction() as tx:
                await set_paused(tx, "tight", paused=False)
