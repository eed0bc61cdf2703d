"""A pause takes effect at once, whatever waits in memory, and loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from headrace.database.record import Record, open_record
from headrace.settings import Settings
from headrace.subscribers.contract import subscriber
from headrace.subscribers.delivery import Delivery
from headrace.subscribers.pausing import set_paused
from headrace.transaction import transaction
from tests.lanes import Thing, consuming, eventually, publish, registered, relaying, settings_of, settled

NAME = "tests.slow"
HEARD: list[int] = []


@subscriber(NAME, Thing)
async def slow(delivery: Delivery, thing: Thing) -> None:
    """Take a while over each."""
    await asyncio.sleep(0.2)
    await delivery.begin()
    HEARD.append(thing.number)


@pytest.fixture
async def record(database_url: str) -> AsyncIterator[Record]:
    """A record with the subscription."""
    HEARD.clear()
    async with open_record(Settings(database_url=database_url)) as opened:
        await registered(opened, slow)
        yield opened


async def test_nothing_further_begins_when_a_backlog_is_in_memory(
    record: Record, database_url: str, redis_url: str
) -> None:
    """Hundreds of events of slow keys are in memory: within two seconds all lanes are given back, and none is lost."""
    settings = settings_of(database_url, redis_url)
    driver = await asyncpg.connect(database_url)
    async with relaying(settings), consuming(settings, slow):
        await publish(record, [Thing(f"k{number % 40}", number) for number in range(400)])
        await eventually(lambda: _heard(40))
        await _pause(record, paused=True)
        took = await eventually(lambda: _no_owner(driver))
        heard = len(HEARD)
        await asyncio.sleep(0.5)  # whatever still began would be heard by now
        heard_later = len(HEARD)
        await _pause(record, paused=False)
        await eventually(lambda: settled(driver, NAME, events=400))
    await driver.close()

    assert took < 2.0
    assert heard_later == heard < 400
    assert sorted(HEARD) == list(range(400))


async def _pause(record: Record, *, paused: bool) -> None:
    async with transaction(record) as tx:
        await set_paused(tx, NAME, paused=paused)


async def _heard(count: int) -> bool:
    return len(HEARD) >= count


async def _no_owner(driver: asyncpg.Connection[asyncpg.Record]) -> bool:
    return not await driver.fetchval("SELECT count(*) FROM leases WHERE name LIKE 'sub:%' AND expires_at > now()")
