"""How far a subscription was ever taken up is on record before it is, so that the next owner knows what to ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from headrace.clock import new_id
from headrace.database.record import Record
from headrace.leases import Fence, Leases
from headrace.settings import Settings
from headrace.subscribers.checkpoints import load, reach
from headrace.subscribers.contract import Subscription, subscriber
from headrace.subscribers.delivery import Delivery
from tests.lanes import Thing, consuming, eventually, publish, registered, relaying, settings_of, settled

NAME = "tests.reached"
LEASE = f"sub:{NAME}:0"
_TOLD = "SELECT bool_and(c.reached >= l.head) FROM checkpoints c JOIN lanes l USING (lane) WHERE c.subscription = $1"


@pytest.fixture
async def driver(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection to the record."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


def counting(heard: list[int]) -> Subscription:
    """Return a subscriber that keeps what it hears, outside any transaction."""

    @subscriber(NAME, Thing)
    async def hear(delivery: Delivery, thing: Thing) -> None:
        del thing
        heard.append(delivery.event.position)

    return hear


async def test_nothing_is_reached_when_the_lease_is_another_s(
    record: Record, driver: asyncpg.Connection[asyncpg.Record]
) -> None:
    """A process that woke up late may not say what it takes up, and so takes up nothing."""
    await registered(record, counting([]))
    former = (await Leases(record.engine, new_id(), seconds=0.0).take([LEASE]))[LEASE]
    present = (await Leases(record.engine, new_id(), seconds=60.0).take([LEASE]))[LEASE]

    assert not await reach(driver, NAME, 0, 500, fence=former)
    assert not await reach(driver, NAME, 0, 500, fence=Fence(LEASE, present.holder, present.epoch + 1))
    assert await reach(driver, NAME, 0, 500, fence=present)
    assert (await load(driver, NAME, 0)).reached == 500


async def test_handled_events_are_not_handled_again_when_the_checkpoint_was_behind(
    record: Record, driver: asyncpg.Connection[asyncpg.Record], database_url: str, redis_url: str
) -> None:
    """Their owner died before it moved the checkpoint: the next one asks the inbox, as far as the record says."""
    settings, heard = settings_of(database_url, redis_url), list[int]()
    await registered(record, counting(heard))
    await _consumed(settings, record, driver, heard, events=30)
    await driver.execute("UPDATE checkpoints SET position = 0 WHERE subscription = $1", NAME)

    await _consumed(settings, record, driver, heard, events=40)

    assert len(heard) == 40
    assert await driver.fetchval(_TOLD, NAME)


async def _consumed(
    settings: Settings,
    record: Record,
    driver: asyncpg.Connection[asyncpg.Record],
    heard: list[int],
    *,
    events: int,
) -> None:
    """Publish until there are that many events, and let a new consumer settle all of them."""
    there = await driver.fetchval("SELECT count(*) FROM event_log")
    await publish(record, [Thing(key=str(number % 7), number=number) for number in range(there, events)])
    async with relaying(settings), consuming(settings, counting(heard)):
        await eventually(lambda: settled(driver, NAME, events=events))
