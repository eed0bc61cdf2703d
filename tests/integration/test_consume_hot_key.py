"""One slow key with thousands of events: its lane's other keys go on, and it keeps its order."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import msgspec
import pytest

from headrace.database.record import Record, open_record
from headrace.events.log import new_event
from headrace.events.model import slot_of
from headrace.settings import Settings
from headrace.subscribers.contract import Subscription, subscriber
from headrace.subscribers.delivery import Delivery
from headrace.transaction import transaction
from tests.lanes import Thing, consuming, eventually, registered, relaying, settings_of, settled

NAME = "tests.hot"
HOT = "hot"
NEIGHBOURS = list(
    itertools.islice((f"k{n}" for n in itertools.count() if slot_of(f"k{n}") % 4 == slot_of(HOT) % 4), 100)
)
"""Keys of the same lane."""


class Heard:
    """A subscriber that waits at one key, and what it has heard."""

    def __init__(self) -> None:
        self.numbers: dict[str, list[int]] = {}
        self.awake = asyncio.Event()
        self.subscription: Subscription = subscriber(NAME, Thing, timeout_seconds=None)(self._hear)

    async def _hear(self, delivery: Delivery, thing: Thing) -> None:
        del delivery
        if thing.key == HOT:
            await self.awake.wait()
        self.numbers.setdefault(thing.key, []).append(thing.number)

    def count(self, keys: Sequence[str]) -> int:
        """Return how many events of these keys were heard."""
        return sum(len(self.numbers.get(key, ())) for key in keys)


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    """Settings with short leases."""
    return settings_of(database_url, redis_url)


@pytest.fixture
async def record(database_url: str) -> AsyncIterator[Record]:
    """The record of this test."""
    async with open_record(Settings(database_url=database_url)) as opened:
        yield opened


@pytest.fixture
async def driver(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection for questions."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@asynccontextmanager
async def listening(record: Record, settings: Settings, heard: Heard) -> AsyncIterator[None]:
    """Run a relay and a consumer for the block."""
    await registered(record, heard.subscription)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(relaying(settings))
        await stack.enter_async_context(consuming(settings, heard.subscription))
        yield


async def publish_many(record: Record, things: Sequence[Thing]) -> None:
    """Publish things in a few transactions."""
    for first in range(0, len(things), 2000):
        async with transaction(record) as tx:
            await tx.publish_events([new_event(thing) for thing in things[first : first + 2000]])


async def _waits(driver: asyncpg.Connection[asyncpg.Record], count: int) -> bool:
    return bool(await driver.fetchval("SELECT count(*) = $1 FROM waiting_events", count))


async def test_others_go_on_when_one_key_sleeps_on_thousands_of_events(
    record: Record, driver: asyncpg.Connection[asyncpg.Record], settings: Settings
) -> None:
    """Thousands of events of a sleeping key wait on record; those of others are handled, the lane is passed whole."""
    heard = Heard()
    async with listening(record, settings, heard):
        await publish_many(record, [Thing(HOT, number) for number in range(6000)])
        await publish_many(record, [Thing(NEIGHBOURS[number % 100], number) for number in range(500)])
        took = await eventually(lambda: _heard(heard, NEIGHBOURS, 500))
        await eventually(lambda: settled(driver, NAME, events=6500))
        await eventually(lambda: _waits(driver, 6000))
        heard.awake.set()
        await eventually(lambda: _heard(heard, [HOT], 6000))
        await publish_many(record, [Thing(HOT, 6000)])
        await eventually(lambda: _heard(heard, [HOT], 6001))
        await eventually(lambda: _waits(driver, 0))

    assert took < 10
    assert heard.numbers[HOT] == list(range(6001))
    assert all(heard.numbers[key] == list(range(place, 500, 100)) for place, key in enumerate(NEIGHBOURS))
    assert await driver.fetchval("SELECT count(*) FROM inbox") == 6501


async def _heard(heard: Heard, keys: Sequence[str], count: int) -> bool:
    return heard.count(keys) >= count


async def test_order_is_kept_when_the_consumer_changes_while_a_key_waits_on_record(
    record: Record, driver: asyncpg.Connection[asyncpg.Record], settings: Settings
) -> None:
    """What waits is handled by the next consumer: each event once, in order, behind what had begun."""
    first, second = Heard(), Heard()
    hurried = msgspec.structs.replace(settings, shutdown_seconds=0.2)
    async with listening(record, hurried, first):
        await publish_many(record, [Thing(HOT, number) for number in range(3000)])
        await eventually(lambda: _waits(driver, 3000))
    second.awake.set()
    async with listening(record, settings, second):
        await publish_many(record, [Thing(HOT, number) for number in range(3000, 3100)])
        await eventually(lambda: _heard(second, [HOT], 3100))
        await eventually(lambda: _waits(driver, 0))

    assert first.numbers == {}
    assert second.numbers[HOT] == list(range(3100))
