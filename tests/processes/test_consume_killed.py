"""Consumers are killed: effects in PostgreSQL happen once, in order, and somebody else goes on within five seconds."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from functools import partial

import asyncpg
import pytest
from redis.asyncio import Redis

from headrace.database.record import Record, open_record
from headrace.settings import Settings
from headrace.streams.connection import command, open_commands
from tests.event_road import Start, starting
from tests.lanes import Thing, eventually, publish, registered, settled
from tests.programs.event_road import HELD, UNLUCKY, effects, folded

pytestmark = pytest.mark.processes


class Road:
    """The stores, and the processes on them."""

    def __init__(self, record: Record, driver: asyncpg.Connection[asyncpg.Record], redis: Redis, start: Start) -> None:
        self.record, self.driver, self.redis, self.start = record, driver, redis, start

    async def settled(self, count: int) -> bool:
        """Tell whether both subscriptions have settled that many events."""
        names = (effects.name, folded.name)
        return all([await settled(self.driver, name, events=count) for name in names])

    async def numbers(self, by: str) -> dict[str, list[int]]:
        """Return the effects of each key, in the order in which they were written."""
        found: dict[str, list[int]] = {}
        for row in await self.driver.fetch("SELECT key, number FROM effects WHERE by = $1 ORDER BY place", by):
            found.setdefault(row["key"], []).append(row["number"])
        return found

    async def expect_each_effect_once(self, keys: int, count: int) -> None:
        """Assert that every event has had its effect once per subscription, in order."""
        assert await self.numbers("subscriber") == {f"k{key}": list(range(key, count, keys)) for key in range(keys)}
        placed = await self.driver.fetch("SELECT lane, head FROM lanes WHERE head > 0")
        assert await self.numbers("projection") == {f"lane {lane}": list(range(1, head + 1)) for lane, head in placed}


@pytest.fixture
async def road(database_url: str, redis_url: str) -> AsyncIterator[Road]:
    """A road with a relay and a table of effects, which refuses no duplicate, so that one would be seen."""
    redis, driver = open_commands(redis_url), await asyncpg.connect(database_url)
    await driver.execute("CREATE TABLE effects (place bigserial, by text, key text, number int)")
    settings = Settings(database_url=database_url, redis_url=redis_url)
    async with open_record(settings) as record:
        await registered(record, effects, folded)
        with starting(settings) as start:
            start("relay")
            yield Road(record, driver, redis, start)
    await command(redis, "CLIENT", "UNPAUSE")
    await driver.close()
    await redis.aclose()


async def test_effects_happen_once_when_the_consumer_dies_after_handling_and_before_acknowledging(road: Road) -> None:
    """What was handled and committed, and could not be acknowledged, is not handled again by the next consumer."""
    consumer = road.start("consume")
    await publish(road.record, [Thing("k0", number) for number in range(UNLUCKY + 1)])
    await eventually(lambda: _handled(road, UNLUCKY + 1))
    pending = await road.driver.fetchval("SELECT min(position) FROM checkpoints WHERE subscription = $1", effects.name)
    consumer.kill()
    await command(road.redis, "CLIENT", "UNPAUSE")

    road.start("consume")
    await publish(road.record, [Thing("k0", number) for number in range(UNLUCKY + 1, 30)])
    await eventually(lambda: road.settled(30))

    assert pending == 0
    await road.expect_each_effect_once(keys=1, count=30)


async def _handled(road: Road, count: int) -> bool:
    return bool(await road.driver.fetchval("SELECT count(*) FROM inbox WHERE subscription = $1", effects.name) == count)


async def test_another_consumer_goes_on_when_one_is_killed(road: Road) -> None:
    """Of two consumers under traffic one is killed: the other catches up by itself, and no effect is twice."""
    consumer = road.start("consume")
    road.start("consume")
    await eventually(lambda: _owners(road, 2))
    things = [Thing(f"k{number % 20}", number) for number in range(400)]
    await publish(road.record, [thing for thing in things[:200] if thing.number != UNLUCKY])

    consumer.kill()
    await publish(road.record, things[200:])
    await eventually(lambda: road.settled(399), within_seconds=20)

    numbers = await road.numbers("subscriber")
    assert numbers == {f"k{key}": [number for number in range(key, 400, 20) if number != UNLUCKY] for key in range(20)}


async def _owners(road: Road, count: int) -> bool:
    statement = "SELECT count(DISTINCT holder) FROM leases WHERE name LIKE 'sub:%' AND expires_at > now()"
    return bool(await road.driver.fetchval(statement) == count)


async def test_nothing_is_lost_or_twice_when_consumers_are_killed_again_and_again(road: Road) -> None:
    """Five consumers in a row are killed in mid-flow."""
    for part in range(5):
        consumer = road.start("consume")
        await publish(road.record, [Thing(f"k{n % 7}", n + 100) for n in range(part * 60, part * 60 + 60)])
        await eventually(partial(_some_effects, road, part * 30))
        consumer.kill()
        consumer.wait()
    road.start("consume")
    await eventually(lambda: road.settled(300))

    numbers = await road.numbers("subscriber")
    assert numbers == {f"k{key}": [n + 100 for n in range(300) if n % 7 == key] for key in range(7)}


async def _some_effects(road: Road, count: int) -> bool:
    found: int = await road.driver.fetchval("SELECT count(*) FROM effects WHERE by = 'subscriber'")
    return found > count


async def test_locks_are_free_when_a_consumer_is_stopped_in_its_transaction(road: Road) -> None:
    """A consumer stopped in mid-transaction keeps nobody waiting, and nothing of it counts when it wakes up."""
    stopped = road.start("holding-consume")
    await publish(road.record, [Thing("k0", HELD)])
    await eventually(lambda: _holds_its_transaction(road))
    stopped.send_signal(signal.SIGSTOP)
    stopped_at = time.monotonic()

    road.start("consume")
    await eventually(lambda: road.settled(1))
    took = time.monotonic() - stopped_at
    stopped.send_signal(signal.SIGCONT)
    await publish(road.record, [Thing("k0", HELD + number) for number in range(1, 20)])
    await eventually(lambda: road.settled(20))

    assert took < 8.0
    assert await road.numbers("subscriber") == {"k0": list(range(HELD, HELD + 20))}


async def _holds_its_transaction(road: Road) -> bool:
    statement = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state = 'idle in transaction' AND query LIKE '%INTO effects%'
    """
    return bool(await road.driver.fetchval(statement))
