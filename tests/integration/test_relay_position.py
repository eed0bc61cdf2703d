"""Positions: dense, in the order of commits, given once, and only by the leader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from headrace.clock import new_id
from headrace.database.record import Record, open_record
from headrace.events.lane import events_after
from headrace.leases import Fence, Leases
from headrace.relay.position import heads, place
from headrace.settings import Settings
from headrace.transaction import transaction
from tests.lanes import Thing, publish

WRITERS, EACH = 6, 25


@pytest.fixture
async def record(database_url: str) -> AsyncIterator[Record]:
    """The record of this test."""
    async with open_record(Settings(database_url=database_url)) as record:
        yield record


@pytest.fixture
async def driver(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection of the relay."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def leading(record: Record) -> Fence:
    """Take the lease for a new holder, whoever has it."""
    return (await Leases(record.engine, new_id(), seconds=0.0).take(["relay"]))["relay"]


@pytest.fixture
async def fence(record: Record) -> Fence:
    """The fence of a leader."""
    return (await Leases(record.engine, new_id(), seconds=60).take(["relay"]))["relay"]


async def numbers_by_key(driver: asyncpg.Connection[asyncpg.Record]) -> dict[str, list[int]]:
    """Return what the lane log holds, in its order, for each key."""
    found: dict[str, list[int]] = {}
    for row in await driver.fetch(
        """SELECT subject, (data ->> 'number')::int FROM lane_log JOIN event_log ON id = event_id
           ORDER BY lane_log.lane, position"""
    ):
        found.setdefault(row[0], []).append(row[1])
    return found


async def write(record: Record, key: str) -> None:
    """Publish events of one key one after the other."""
    await publish(record, [Thing(key, number) for number in range(EACH)])


async def test_positions_are_dense_and_in_order_when_many_write_at_once(
    record: Record, driver: asyncpg.Connection[asyncpg.Record], fence: Fence
) -> None:
    """While six producers write, every event gets one position, none is skipped, and each key keeps its order."""
    writing = asyncio.gather(*(write(record, f"key {writer}") for writer in range(WRITERS)))
    while not writing.done():
        await place(driver, fence, limit=7)
        await asyncio.sleep(0)
    await writing
    while await place(driver, fence):
        pass

    placed = await driver.fetch(
        "SELECT lane, count(*) AS n, min(position) AS low, max(position) AS high FROM lane_log GROUP BY 1"
    )

    assert sum(row["n"] for row in placed) == WRITERS * EACH
    assert all(row["low"] == 1 and row["high"] == row["n"] for row in placed)
    assert {lane: head for lane, head in (await heads(driver)).items() if head} == {
        row["lane"]: row["high"] for row in placed
    }
    assert await numbers_by_key(driver) == {f"key {writer}": list(range(EACH)) for writer in range(WRITERS)}


async def test_event_is_not_lost_when_its_transaction_commits_late(
    record: Record, driver: asyncpg.Connection[asyncpg.Record], fence: Fence
) -> None:
    """A transaction that took its number first and commits last is placed then: no cursor passes it by."""
    async with transaction(record) as late:
        await late.publish(Thing("late", 1))
        await publish(record, [Thing("soon", number) for number in range(5)])
        before = await place(driver, fence)

    after = await place(driver, fence)

    assert sum(map(len, before.values())) == 5
    assert [event.subject for events in after.values() for _, event in events if event] == ["late"]


async def test_nothing_is_placed_when_the_transaction_is_rolled_back(
    record: Record, driver: asyncpg.Connection[asyncpg.Record], fence: Fence
) -> None:
    """An event that was never committed leaves no hole in the positions."""
    async with transaction(record) as tx:
        await tx.publish(Thing("never", 1))
        await tx.connection.rollback()
    await publish(record, [Thing("a", 1)])

    placed = await place(driver, fence)

    assert [position for events in placed.values() for position, _ in events] == [1]


async def test_nothing_is_placed_when_the_lease_is_anothers(
    record: Record, driver: asyncpg.Connection[asyncpg.Record]
) -> None:
    """A relay that was paused and wakes up after its lease changes nothing."""
    asleep = await leading(record)
    awake = (await Leases(record.engine, new_id(), seconds=60).take(["relay"]))["relay"]
    await publish(record, [Thing("a", 1)])

    refused = await place(driver, asleep)
    placed = await place(driver, awake)

    assert refused == {}
    assert sum(map(len, placed.values())) == 1


async def test_each_event_is_placed_once_when_two_leaders_overlap(
    record: Record, driver: asyncpg.Connection[asyncpg.Record], database_url: str, fence: Fence
) -> None:
    """Two relays that both believe to lead, for a moment, still place every event once and in order."""
    other = await asyncpg.connect(database_url)
    await publish(record, [Thing(f"key {number % 3}", number) for number in range(60)])

    async def drain(connection: asyncpg.Connection[asyncpg.Record]) -> None:
        while await place(connection, fence, limit=4):
            pass

    await asyncio.gather(drain(driver), drain(other))
    await other.close()

    assert await numbers_by_key(driver) == {f"key {key}": list(range(key, 60, 3)) for key in range(3)}


async def test_positions_stay_when_retention_has_dropped_the_events(
    record: Record, driver: asyncpg.Connection[asyncpg.Record], fence: Fence
) -> None:
    """A position without an event is told as one, so that those after it keep theirs."""
    await publish(record, [Thing("a", number) for number in range(3)])
    placed = await place(driver, fence)
    lane = next(iter(placed))
    await driver.execute("DELETE FROM event_log WHERE (data ->> 'number')::int = 1")

    found = await events_after(driver, lane, 0, limit=10)

    assert [(position, event is None) for position, event in found] == [(1, False), (2, True), (3, False)]
