"""What limits leave on record is kept short, and what they are told from is kept true."""

from __future__ import annotations

import asyncio
import time

import pytest

from headrace.diagnostics import echo, sleep
from headrace.jobs.limits import tidy_starts
from headrace.relay.dispatch import Dispatcher
from headrace.relay.paces import Paces
from tests.fleet import held, register
from tests.intervals import most_at_once
from tests.road import Road, eventually, running

_QUEUES = """
    INSERT INTO queues (name, rate_limit, rate_per_seconds)
    VALUES ('hourly', 5000, 3600), ('quick', 10, 2), ('free', NULL, NULL)
"""
_STARTS = """
    INSERT INTO queue_starts (queue, at, jobs)
    SELECT q.name, now() - make_interval(secs => n * 1.5), 2
    FROM (VALUES ('hourly'), ('quick'), ('free'), ('gone')) AS q(name), generate_series(0, 3000) AS n
"""
_IN_WINDOW = """
    SELECT coalesce(sum(jobs), 0) FROM queue_starts s JOIN queues q ON q.name = s.queue
    WHERE s.queue = $1 AND s.at > now() - make_interval(secs => rate_per_seconds - $2)
"""


async def test_ledger_of_starts_is_short_when_it_was_tidied(road: Road) -> None:
    """What left its window is gone, older rows are joined, and no window counts less than before."""
    await road.driver.execute(_QUEUES)
    async with road.driver.transaction():  # the time stands still
        await road.driver.execute(_STARTS)
        before = {
            (queue, ago): await road.driver.fetchval(_IN_WINDOW, queue, ago)
            for queue, agos in (("hourly", (0, 1800, 3500, 3595)), ("quick", (0, 1)))
            for ago in map(float, agos)
        }

        await tidy_starts(road.driver)
        await tidy_starts(road.driver)

        for (queue, ago), starts in before.items():
            after = await road.driver.fetchval(_IN_WINDOW, queue, ago)
            assert starts <= after <= starts + 10
        rows = dict(await road.driver.fetch("SELECT queue, count(*) FROM queue_starts GROUP BY queue"))
    assert rows.keys() == {"hourly", "quick"}
    assert rows["hourly"] < 1020
    assert rows["quick"] == 2


async def test_limit_is_kept_when_jobs_come_back_from_a_lost_belt(road: Road) -> None:
    """Redis is emptied again and again: what was on it is counted as released until it is returned."""
    await road.driver.execute("INSERT INTO queues (name, concurrency) VALUES ('default', 2)")
    async with running(road):
        await road.enqueue(*(sleep.call(0.05) for _ in range(30)))
        for _ in range(6):
            await asyncio.sleep(0.1)
            await road.redis.flushdb()
        counts = await road.all_finished(40)

    assert counts == {"succeeded": 30}
    assert most_at_once((await held(road.driver, "default"))[None]) == 2


async def test_pace_of_a_queue_is_on_record_when_it_was_busy(road: Road) -> None:
    """Jobs per second of the last seconds in which the queue had something to do."""
    async with running(road):
        await road.enqueue(*(sleep.call(0.1) for _ in range(500)))

        async def written() -> bool:
            return bool(await road.driver.fetchval("SELECT pace > 20 FROM queues WHERE name = 'default'"))

        await eventually(written)
        await road.all_finished(30)

    pace = await road.driver.fetchval("SELECT pace FROM queues WHERE name = 'default' AND pace_at > created_at")
    assert 20 < pace < 220


async def test_pace_goes_on_from_the_record_when_the_leader_changes(road: Road) -> None:
    """A new leader's first second is one of many."""
    await road.driver.execute("INSERT INTO queues (name, pace) VALUES ('default', 100)")
    await register(road.driver, road.registry.tasks, slots=5)
    paces = Paces()
    for _ in range(2):  # the first of them may have been full in part only
        paces.full(["default"])
        paces._began_at = time.monotonic() - 1
        await paces.write(road.driver)

    assert await road.driver.fetchval("SELECT pace FROM queues") == 95


async def test_pace_is_that_of_a_flood_when_jobs_trickled_before(road: Road) -> None:
    """A second in which nothing waited for room says only that so much can be done at least."""
    await road.driver.execute("INSERT INTO queues (name) VALUES ('default')")
    paces, found = Paces(), []
    trickle, flood = [(10, False)] * 30, [(200, True), (400, True), (400, True)]
    for done, is_full in [*trickle, *flood, *trickle]:
        paces.count({"default": done})
        paces.full(["default"] if is_full else [])
        paces._began_at = time.monotonic() - 1
        await paces.write(road.driver)
        found.append(await road.driver.fetchval("SELECT pace FROM queues"))

    assert found[:30] == [None] * 30
    assert found[30:] == pytest.approx([200.0] + [400.0] * 32, rel=0.05)


async def test_dispatcher_writes_no_pace_when_nothing_happens(road: Road) -> None:
    """A quiet system writes nothing."""
    await register(road.driver, road.registry.tasks, slots=5)
    (job_id,) = await road.enqueue(echo.call(1))
    dispatcher = Dispatcher(road.redis)
    await dispatcher.run_once(road.driver)
    await road.driver.execute("UPDATE jobs SET state = 'cancelled', finished_at = now() WHERE id = $1", job_id)
    dispatcher._room.paces._began_at -= 2
    await dispatcher.run_once(road.driver)
    before = await road.driver.fetchval("SELECT xmin::text FROM queues")

    for _ in range(3):
        dispatcher._room.paces._began_at -= 2
        await dispatcher.run_once(road.driver)

    assert await road.driver.fetchval("SELECT xmin::text FROM queues") == before
