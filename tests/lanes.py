"""The event road for tests: an application with two events, a relay and consumers in this process, and how to wait.

Owns what the tests of streams, relay and subscribers share. Everything runs on the real stores; the relay leads and the
consumers own lanes exactly as the processes do, only with shorter leases.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import asyncpg
import msgspec
from redis.asyncio import Redis

from headrace.application import Application, Registry, combine
from headrace.database.record import Record
from headrace.events.registry import event
from headrace.loops import Stop
from headrace.relay.moving import move_events
from headrace.relay.process import stand_by
from headrace.settings import Settings
from headrace.streams.connection import command
from headrace.streams.names import lane_key
from headrace.streams.transport import Batch, LaneWriter
from headrace.subscribers.checkpoints import register
from headrace.subscribers.contract import Subscription
from headrace.subscribers.process import consume
from headrace.transaction import transaction
from tests.conftest import MIGRATIONS

WAIT_SECONDS = 15.0


@event("tests.thing.happened", subject="key")
class Thing(msgspec.Struct, frozen=True):
    """Something happened to a key."""

    key: str
    number: int


@event("tests.thing.forgotten", subject="key")
class Forgotten(msgspec.Struct, frozen=True):
    """Something that few listen to."""

    key: str


def registry_of(*subscriptions: Subscription) -> Registry:
    """Return the registry of an application with these subscriptions."""
    return combine(
        [
            Application(
                name="tests",
                events=(Thing, Forgotten),
                subscriptions=subscriptions,
                migrations=next(iter(MIGRATIONS), None),
            )
        ]
    )


def settings_of(database_url: str, redis_url: str) -> Settings:
    """Return settings with short leases."""
    return Settings(database_url=database_url, redis_url=redis_url, lease_seconds=1.0, shutdown_seconds=5.0)


async def publish(record: Record, things: Sequence[msgspec.Struct]) -> None:
    """Publish each in a transaction of its own."""
    for thing in things:
        async with transaction(record) as tx:
            await tx.publish(thing)


@asynccontextmanager
async def relaying(settings: Settings) -> AsyncIterator[None]:
    """Run a relay that moves events for the block."""
    async with running(lambda stop: stand_by(settings, stop, migrations=MIGRATIONS, parts=(move_events,))):
        yield


@asynccontextmanager
async def consuming(settings: Settings, *subscriptions: Subscription) -> AsyncIterator[None]:
    """Run a consumer of these subscriptions for the block."""
    async with running(lambda stop: consume(settings, registry_of(*subscriptions), stop)):
        yield


@asynccontextmanager
async def running(process: Callable[[Stop], Awaitable[None]]) -> AsyncIterator[None]:
    """Run what takes a stop flag for the block, and let it end in order."""
    stop = Stop()
    task = asyncio.ensure_future(process(stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, WAIT_SECONDS)


async def registered(record: Record, *subscriptions: Subscription) -> None:
    """Put subscriptions on record, so that what is published from now on is theirs."""
    await register(record.engine, subscriptions)


async def eventually(condition: Callable[[], Awaitable[bool]], *, within_seconds: float = WAIT_SECONDS) -> float:
    """Wait until the condition holds, fail if it does not in time, and return how long it took."""
    began_at = time.monotonic()
    while not await condition():
        assert time.monotonic() - began_at < within_seconds, "it did not come true in time"
        await asyncio.sleep(0.02)
    return time.monotonic() - began_at


async def settled(driver: asyncpg.Connection[asyncpg.Record], subscription: str, *, events: int) -> bool:
    """Tell whether all lanes together hold that many events and the subscription's checkpoints have passed them all."""
    row = await driver.fetchrow(
        """SELECT sum(head) AS head, sum(position) AS position
           FROM lanes JOIN checkpoints USING (lane) WHERE subscription = $1""",
        subscription,
    )
    return row is not None and row["head"] == events and row["position"] == events


async def entries(redis: Redis, key: str) -> list[tuple[str, bytes]]:
    """Return the ids and payloads that a stream holds."""
    found = await command(redis, "XRANGE", key, "-", "+")
    return [(identity.decode(), fields[1] if isinstance(fields, list) else fields[b"e"]) for identity, fields in found]


async def put(redis: Redis, key: str, identity: str, payload: bytes) -> None:
    """Write an entry to a stream, past the compare-and-append."""
    await command(redis, "XADD", key, identity, "e", payload)


async def positions(redis: Redis, lane: int) -> list[int]:
    """Return the positions that a lane's stream holds."""
    return [int(identity.split("-")[0]) for identity, _ in await entries(redis, lane_key(lane))]


async def ends(writer: LaneWriter, lanes: Sequence[int]) -> dict[int, int]:
    """Return where each lane ends, by appending nothing to it."""
    return await writer.append([Batch(lane, 0, ()) for lane in lanes])


async def heads(driver: asyncpg.Connection[asyncpg.Record]) -> dict[int, int]:
    """Return the head of each lane."""
    return dict(await driver.fetch("SELECT lane, head FROM lanes"))


_PLACE = """
    WITH taken AS (DELETE FROM outbox RETURNING seq, slot % 4 AS lane, event_id),
    placed AS (
        INSERT INTO lane_log (lane, position, event_id)
        SELECT t.lane, l.head + row_number() OVER (PARTITION BY t.lane ORDER BY t.seq), t.event_id
        FROM taken t JOIN lanes l ON l.lane = t.lane RETURNING lane)
    UPDATE lanes SET head = head + counted.events
    FROM (SELECT lane, count(*) AS events FROM placed GROUP BY lane) AS counted WHERE counted.lane = lanes.lane
"""


async def plant(record: Record, driver: asyncpg.Connection[asyncpg.Record], things: Sequence[msgspec.Struct]) -> None:
    """Publish things and give them their positions without a relay; all subscriptions have passed them."""
    await publish(record, things)
    await driver.execute(_PLACE)
    await driver.execute("UPDATE checkpoints c SET position = head FROM lanes l WHERE l.lane = c.lane")
