"""The bus within one process: on PostgreSQL alone, and it keeps what a deployment keeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from headrace.database.record import open_record
from headrace.in_process.bus import in_process
from headrace.settings import Settings
from headrace.subscribers.replay import Asked, Selection, start_replay
from headrace.transaction import transaction
from tests.bus import TABLE, Thing, application, publish

PATIENCE_SECONDS = 15.0


@pytest.fixture
def settings(database_url: str) -> Settings:
    """Settings whose Redis nobody could reach."""
    return Settings(
        database_url=database_url, redis_url="redis://nowhere.invalid:1/0", lease_seconds=1.0, shutdown_seconds=3.0
    )


@pytest.fixture
async def driver(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection to the record, with the table of effects."""
    connection = await asyncpg.connect(database_url)
    await connection.execute(TABLE)
    yield connection
    await connection.close()


async def seen(driver: asyncpg.Connection[asyncpg.Record], by: str, *, count: int) -> list[tuple[str, int]]:
    """Wait until that many effects are there, and return them in their order."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            rows = await driver.fetch("SELECT key, number FROM seen WHERE by = $1 ORDER BY seq", by)
            if len(rows) >= count:
                return [(row["key"], row["number"]) for row in rows]
            await asyncio.sleep(0.02)


async def test_events_and_their_jobs_are_handled_when_there_is_no_redis(
    settings: Settings, driver: asyncpg.Connection[asyncpg.Record]
) -> None:
    """Subscriber and projection see every event once, each key in order; what they enqueue is run."""
    async with in_process(settings, application) as bus:
        things = await publish(bus, *range(40), *range(1000, 1005))

        handled = await seen(driver, "subscriber", count=45)
        folded = await seen(driver, "projection", count=45)
        followed = await seen(driver, "job", count=5)

    for effects in (handled, folded):
        for key in ("key 0", "key 1", "key 2"):
            assert [number for at, number in effects if at == key] == [one.number for one in things if one.key == key]
    assert sorted(number for _, number in followed) == list(range(1000, 1005))


async def test_failing_delivery_becomes_a_job_that_is_run_when_there_is_no_worker(
    settings: Settings, driver: asyncpg.Connection[asyncpg.Record]
) -> None:
    """The bus works its jobs itself; the first attempt stands on record with its error."""
    async with in_process(settings, application) as bus:
        await publish(bus, -1)

        handled = await seen(driver, "subscriber", count=1)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await driver.fetchval("SELECT count(*) FROM jobs WHERE state = 'succeeded'") < 1:
                await asyncio.sleep(0.02)
        attempts = await driver.fetch("SELECT attempt, type FROM job_attempts ORDER BY attempt")

    assert handled == [("key 2", -1)]
    assert (attempts[0]["attempt"], attempts[0]["type"]) == (1, "ConnectionError")


async def test_events_are_handled_when_they_came_while_nobody_was_at_work(
    settings: Settings, driver: asyncpg.Connection[asyncpg.Record]
) -> None:
    """The record is the truth: the next bus fills its lanes from it, and handles nothing twice."""
    async with in_process(settings, application) as bus:
        await publish(bus, 1)
        await seen(driver, "subscriber", count=1)
    async with open_record(settings) as record, transaction(record) as tx:
        for number in range(2, 12):
            await tx.publish(Thing("key 0", number))
    async with in_process(settings, application):
        handled = await seen(driver, "subscriber", count=11)
        folded = await seen(driver, "projection", count=11)

    assert [number for _, number in handled] == list(range(1, 12))
    assert sorted(number for _, number in folded) == list(range(1, 12))


async def test_events_come_again_to_one_subscription_when_they_are_replayed(
    settings: Settings, driver: asyncpg.Connection[asyncpg.Record]
) -> None:
    """A replay is a job like others, and the bus works it."""
    async with in_process(settings, application) as bus:
        await publish(bus, 1, 2, 3)
        await seen(driver, "subscriber", count=3)

        async with bus.transaction() as tx:
            await start_replay(tx, bus.resources.registry.subscriptions, Asked("bus.react", Selection()))

        handled = await seen(driver, "subscriber", count=6)

    assert sorted(number for _, number in handled) == [1, 1, 2, 2, 3, 3]


async def test_one_is_at_work_when_two_share_a_record(
    settings: Settings, driver: asyncpg.Connection[asyncpg.Record]
) -> None:
    """The other stands by, and takes over; what it publishes meanwhile is handled all the same."""
    async with in_process(settings, application) as standing_by:
        async with in_process(settings, application) as second:
            await publish(second, 1, 2, 3)
            await seen(driver, "subscriber", count=3)
            leaders = await driver.fetchval("SELECT count(*) FROM leases WHERE name = 'relay' AND expires_at > now()")
        await publish(standing_by, 4, 5, 6)

        handled = await seen(driver, "subscriber", count=6)

    assert leaders == 1
    assert sorted(number for _, number in handled) == [1, 2, 3, 4, 5, 6]
