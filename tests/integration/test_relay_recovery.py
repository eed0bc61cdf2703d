"""The stream equals the lane log again, whatever happened to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest
from redis.asyncio import Redis

from headrace.clock import new_id
from headrace.database.record import Record, open_record
from headrace.leases import Fence, Leases
from headrace.relay.lanes import Lanes
from headrace.relay.position import place
from headrace.relay.trim import Trimmer
from headrace.settings import Settings
from headrace.streams.append import RedisWriter
from headrace.streams.connection import open_commands
from headrace.streams.names import lane_key
from headrace.streams.payload import Wanted
from headrace.subscribers.contract import subscriber
from headrace.subscribers.delivery import Delivery
from tests.lanes import Thing, entries, eventually, heads, positions, publish, put, registered, relaying, settings_of

KEY = "one key, so one lane"
CAPACITY = 1_000_000


@subscriber("tests.listener", Thing)
async def listener(delivery: Delivery, thing: Thing) -> None:
    """Hold the lanes: nothing is trimmed before this has acknowledged it."""
    del delivery, thing


class Relay:
    """A leader's lanes, step by step."""

    def __init__(self, record: Record, driver: asyncpg.Connection[asyncpg.Record], redis: Redis, fence: Fence) -> None:
        self.record, self.driver, self.redis, self.fence = record, driver, redis, fence
        self.lanes = Lanes(driver, RedisWriter(redis), fence, capacity=CAPACITY)

    async def move(self, count: int) -> int:
        """Publish that many events of one key, move them, and return their lane."""
        await publish(self.record, [Thing(KEY, number) for number in range(count)])
        while await self.lanes.step():
            pass
        return next(lane for lane, head in (await heads(self.driver)).items() if head)

    async def look(self) -> None:
        """Look at the streams, and feed those that end too early."""
        await self.lanes.look()
        while await self.lanes.step():
            pass

    async def numbers(self, lane: int) -> list[int]:
        """Return the positions told by the payloads of a lane, in the stream's order."""
        wanted = Wanted(["tests.thing.happened"])
        events = [wanted.read(payload) for _, payload in await entries(self.redis, lane_key(lane))]
        return [event.position for event in events if event]


@pytest.fixture
async def relay(database_url: str, redis_url: str) -> AsyncIterator[Relay]:
    """A leader with a subscription that holds every event."""
    redis, driver = open_commands(redis_url), await asyncpg.connect(database_url)
    async with open_record(Settings(database_url=database_url)) as record:
        await registered(record, listener)
        fence = (await Leases(record.engine, new_id(), seconds=60).take(["relay"]))["relay"]
        yield Relay(record, driver, redis, fence)
    await driver.close()
    await redis.aclose()


async def flush(relay: Relay, _key: str) -> None:
    """Lose everything."""
    await relay.redis.flushdb()


async def replace_by_string(relay: Relay, key: str) -> None:
    """Put another kind of key in its place."""
    await relay.redis.set(key, "not a stream")


async def replace_by_older_copy(relay: Relay, key: str) -> None:
    """Take the last three entries away, as a replica that was behind would."""
    held = await entries(relay.redis, key)
    await relay.redis.delete(key)
    for identity, payload in held[:-3]:
        await put(relay.redis, key, identity, payload)


async def write_as_a_stranger(relay: Relay, key: str) -> None:
    """Append an entry that no relay wrote."""
    await relay.redis.xadd(key, {"hello": "world"})


FAULTS = [flush, replace_by_string, replace_by_older_copy, write_as_a_stranger]


@pytest.mark.parametrize("fault", FAULTS)
async def test_stream_is_mended_when_it_was_damaged(
    relay: Relay, fault: Callable[[Relay, str], Awaitable[None]]
) -> None:
    """The next look puts back what is missing, in order, and nothing twice."""
    lane = await relay.move(12)
    await fault(relay, lane_key(lane))

    await relay.look()

    assert await positions(relay.redis, lane) == list(range(1, 13))
    assert await relay.numbers(lane) == list(range(1, 13))


@pytest.mark.parametrize("fault", FAULTS)
async def test_stream_is_mended_when_it_is_damaged_under_traffic(
    relay: Relay, fault: Callable[[Relay, str], Awaitable[None]]
) -> None:
    """The next append notices by itself, before any look is due."""
    lane = await relay.move(5)
    await fault(relay, lane_key(lane))

    await relay.move(5)

    assert await relay.numbers(lane) == list(range(1, 11))


async def test_stream_is_completed_when_the_leader_died_between_its_two_writes(relay: Relay) -> None:
    """Positions that were committed and never appended are appended by the next leader, before anything new."""
    lane = await relay.move(4)
    await publish(relay.record, [Thing(KEY, number) for number in range(6)])
    await place(relay.driver, relay.fence)

    await Lanes(relay.driver, RedisWriter(relay.redis), relay.fence, capacity=CAPACITY).step()

    assert await relay.numbers(lane) == list(range(1, 11))


async def test_stream_begins_after_what_all_have_acknowledged_when_it_was_flushed(relay: Relay) -> None:
    """What nobody needs any more is not put back, and the lane goes on in its count."""
    lane = await relay.move(10)
    await relay.driver.execute("UPDATE checkpoints SET position = 7 WHERE lane = $1", lane)
    await relay.redis.flushdb()

    await relay.look()
    await relay.move(1)

    assert await positions(relay.redis, lane) == [8, 9, 10, 11]


async def test_stream_is_left_alone_when_nothing_is_wrong(relay: Relay) -> None:
    """A look at healthy lanes writes nothing."""
    lane = await relay.move(3)
    before = await relay.redis.xinfo_stream(lane_key(lane))

    await relay.look()

    assert await relay.redis.xinfo_stream(lane_key(lane)) == before


async def test_many_events_are_put_back_in_order_when_the_stream_is_lost(relay: Relay) -> None:
    """Recovery goes by chunks: more than one of them keeps the order too."""
    lane = await relay.move(1)
    await relay.driver.execute(
        "INSERT INTO lane_log SELECT lane, position + n, event_id FROM lane_log, generate_series(1, 1200) AS n"
    )
    await relay.driver.execute("UPDATE lanes SET head = 1201 WHERE lane = $1", lane)
    await relay.redis.flushdb()

    await relay.look()

    assert await positions(relay.redis, lane) == list(range(1, 1202))


async def test_lanes_are_trimmed_when_every_subscription_is_past_them(relay: Relay) -> None:
    """Entries leave when the slowest checkpoint has passed them, by whole nodes of the stream; not before."""
    await publish(relay.record, [Thing(KEY, number) for number in range(5)])
    lane = await relay.move(0)
    await relay.driver.execute(
        "INSERT INTO lane_log SELECT lane, 5 + n, event_id FROM lane_log, generate_series(1, 995) n WHERE position = 5"
    )
    await relay.driver.execute("UPDATE lanes SET head = 1000 WHERE lane = $1", lane)
    await relay.look()
    await Trimmer(relay.driver, RedisWriter(relay.redis)).step()
    untouched = len(await positions(relay.redis, lane))
    await relay.driver.execute("UPDATE checkpoints SET position = 900 WHERE lane = $1", lane)

    await Trimmer(relay.driver, RedisWriter(relay.redis)).step()

    left = await positions(relay.redis, lane)
    assert untouched == 1000
    assert left[0] <= 901
    assert left[0] > 700
    assert left[-1] == 1000


async def test_lost_streams_come_back_in_two_seconds_when_nobody_writes(relay: Relay, redis_url: str) -> None:
    """A flush of an idle Redis is noticed and mended by the running relay by itself."""
    await relay.driver.execute("UPDATE leases SET expires_at = '-infinity'")
    async with relaying(settings_of(relay.record.database_url, redis_url)):
        await publish(relay.record, [Thing(KEY, number) for number in range(5)])
        lane = await _lane_with(relay, 5)
        await relay.redis.flushdb()

        took = await eventually(lambda: _holds(relay, lane, 5), within_seconds=2.0)

    assert took < 2.0


async def _lane_with(relay: Relay, count: int) -> int:
    async def moved() -> bool:
        return sum((await heads(relay.driver)).values()) == count

    await eventually(moved)
    lane = next(lane for lane, head in (await heads(relay.driver)).items() if head)
    await eventually(lambda: _holds(relay, lane, count))
    return lane


async def _holds(relay: Relay, lane: int, count: int) -> bool:
    return await positions(relay.redis, lane) == list(range(1, count + 1))
