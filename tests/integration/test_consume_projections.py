"""Projections on the real road: exactly once, in order, and visibly waiting when they fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest
from sqlalchemy import text

from headrace.clock import new_id, now
from headrace.database.record import Record, open_record
from headrace.errors import FencedError
from headrace.events.listing import list_subscriptions
from headrace.events.model import RecordedEvent
from headrace.leases import Fence
from headrace.settings import Settings
from headrace.streams.connection import open_commands
from headrace.streams.groups import RedisGroup
from headrace.streams.names import lane_key
from headrace.subscribers.contract import projection
from headrace.subscribers.lane import Lane
from headrace.subscribers.projecting import Projecting
from headrace.transaction import Transaction
from tests.lanes import Forgotten, Thing, consuming, eventually, publish, registered, relaying, settings_of, settled

NAME = "tests.history"


async def keep(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
    """Write each event's lane and position."""
    rows = [{"lane": event.lane, "position": event.position, "type": event.type} for event in events]
    await tx.connection.execute(
        text("INSERT INTO history (lane, position, type) VALUES (:lane, :position, :type)"), rows
    )


@projection(NAME, Thing)
async def history(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
    """Keep what happened."""
    await keep(tx, events)


@pytest.fixture
async def driver(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection to a record with the projection's table; it refuses no duplicate, so that one would be seen."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("CREATE TABLE history (place bigserial, lane int, position bigint, type text)")
    yield connection
    await connection.close()


@pytest.fixture
async def record(database_url: str, driver: asyncpg.Connection[asyncpg.Record]) -> AsyncIterator[Record]:
    """The record of this test."""
    del driver
    async with open_record(Settings(database_url=database_url)) as record:
        yield record


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    """Settings with short leases."""
    return settings_of(database_url, redis_url)


async def kept(driver: asyncpg.Connection[asyncpg.Record]) -> dict[int, list[int]]:
    """Return the kept positions of each lane, in the order in which they were kept."""
    found: dict[int, list[int]] = {}
    for row in await driver.fetch("SELECT lane, position FROM history ORDER BY place"):
        found.setdefault(row["lane"], []).append(row["position"])
    return found


async def expected(driver: asyncpg.Connection[asyncpg.Record]) -> dict[int, list[int]]:
    """Return the positions of the events that are listened to, as the lane log has them."""
    found: dict[int, list[int]] = {}
    for row in await driver.fetch(
        """SELECT l.lane, position FROM lane_log l JOIN event_log e ON id = event_id
           WHERE type LIKE '%.happened' ORDER BY 1, 2"""
    ):
        found.setdefault(row["lane"], []).append(row["position"])
    return found


async def test_every_event_is_applied_once_and_in_order_when_all_is_well(
    record: Record, driver: asyncpg.Connection[asyncpg.Record], settings: Settings
) -> None:
    """All lanes are applied completely and in order, and events of other types are passed over."""
    await registered(record, history)
    async with relaying(settings), consuming(settings, history):
        await publish(record, [Thing(f"k{n % 9}", n) if n % 4 else Forgotten(f"k{n % 9}") for n in range(80)])
        await eventually(lambda: settled(driver, NAME, events=80))

    assert await kept(driver) == await expected(driver)


async def test_lane_waits_visibly_when_a_batch_fails(
    record: Record, driver: asyncpg.Connection[asyncpg.Record], settings: Settings
) -> None:
    """A failing batch is rolled back and shown with its reason; later it is applied, once, and the sign goes."""
    mended = asyncio.Event()

    @projection(NAME, Thing)
    async def fragile(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
        await keep(tx, events)
        if not mended.is_set():
            message = "the table is missing a column"
            raise RuntimeError(message)

    await registered(record, fragile)
    async with relaying(settings), consuming(settings, fragile):
        await publish(record, [Thing("a", number) for number in range(5)])
        await eventually(lambda: _waits(record))
        during = await kept(driver)
        mended.set()
        await eventually(lambda: settled(driver, NAME, events=5))

    (status,) = await list_subscriptions(record, limit=10)
    assert during == {}
    assert status.last_error is None
    assert await kept(driver) == await expected(driver)


async def _waits(record: Record) -> bool:
    (status,) = await list_subscriptions(record, limit=10)
    return status.last_error is not None and "missing a column" in status.last_error and status.lag == 5


async def test_other_lanes_go_on_when_one_waits(
    record: Record, driver: asyncpg.Connection[asyncpg.Record], settings: Settings
) -> None:
    """A lane whose batch fails holds up no other lane."""

    @projection(NAME, Thing)
    async def partial(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
        if events[0].lane == 0:
            message = "not this lane"
            raise RuntimeError(message)
        await keep(tx, events)

    await registered(record, partial)
    async with relaying(settings), consuming(settings, partial):
        await publish(record, [Thing(f"k{number}", number) for number in range(40)])
        await eventually(lambda: _others_are_done(driver))

    assert 0 not in await kept(driver)


async def _others_are_done(driver: asyncpg.Connection[asyncpg.Record]) -> bool:
    placed = await expected(driver)
    done = await kept(driver)
    return sum(map(len, placed.values())) == 40 and done == {lane: placed[lane] for lane in placed if lane != 0}


@pytest.mark.parametrize("fault", ["flush", "group"])
async def test_nothing_is_lost_or_twice_when_redis_loses_it(
    record: Record, driver: asyncpg.Connection[asyncpg.Record], settings: Settings, fault: str
) -> None:
    """Whatever Redis forgets in mid-flow, each event is applied once."""
    redis = open_commands(settings.redis_url)
    await registered(record, history)
    async with relaying(settings), consuming(settings, history):
        for part in range(4):
            await publish(record, [Thing(f"k{number}", number) for number in range(part * 20, part * 20 + 20)])
            if fault == "flush":
                await redis.flushdb()
            elif await redis.exists(lane_key(1)):
                await redis.xgroup_destroy(lane_key(1), NAME)
        await eventually(lambda: settled(driver, NAME, events=80))

    await redis.aclose()
    assert await kept(driver) == await expected(driver)


async def test_projection_goes_on_at_its_checkpoint_when_the_consumer_restarts(
    record: Record, driver: asyncpg.Connection[asyncpg.Record], settings: Settings
) -> None:
    """A second process begins exactly where the first one's checkpoint is."""
    await registered(record, history)
    async with relaying(settings):
        async with consuming(settings, history):
            await publish(record, [Thing("a", number) for number in range(10)])
            await eventually(lambda: settled(driver, NAME, events=10))
        await publish(record, [Thing("a", number) for number in range(10, 20)])
        async with consuming(settings, history):
            await eventually(lambda: settled(driver, NAME, events=20))

    assert await kept(driver) == await expected(driver)


def lane_at(position: int) -> Lane:
    """Return a prepared lane 0 at a checkpoint."""
    lane = Lane(0, Fence("sub:x:0", new_id(), 1))
    lane.begin(position, suspect_until=position)
    lane.prepared = True
    return lane


def event_at(position: int) -> RecordedEvent:
    """Return an event of lane 0."""
    identity = new_id()
    declared = history.events[0]
    return RecordedEvent(identity, declared.type, 1, "/tests", str(identity), "a", 0, position, now(), now(), "{}", "")


async def test_late_batch_is_refused_when_another_has_moved_the_checkpoint(
    record: Record, driver: asyncpg.Connection[asyncpg.Record], settings: Settings
) -> None:
    """A process that was paused in the middle of a batch and wakes up after its successor applies nothing."""
    redis = open_commands(settings.redis_url)
    await registered(record, history)
    asleep = Projecting(history, record, lanes=RedisGroup(redis, redis, NAME, "one"), on_room=lambda: None)
    awake = Projecting(history, record, lanes=RedisGroup(redis, redis, NAME, "one"), on_room=lambda: None)
    late, rightful = lane_at(0), lane_at(0)
    await awake.apply(rightful, [(1, event_at(1)), (2, event_at(2))])

    with pytest.raises(FencedError):
        await asleep.apply(late, [(1, event_at(1))])

    await redis.aclose()
    assert await kept(driver) == {0: [1, 2]}
