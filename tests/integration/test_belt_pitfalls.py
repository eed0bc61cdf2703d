"""What is known to go wrong with Redis Streams, and does not here; docs/chaos.md says which test is for which."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from headrace.events.listing import list_subscriptions
from headrace.streams.append import RedisWriter
from headrace.streams.connection import open_reader
from headrace.streams.names import lane_key
from headrace.streams.put import put
from headrace.streams.transport import WAIT_SECONDS, Batch
from headrace.subscribers.contract import subscriber
from headrace.subscribers.delivery import Delivery
from tests.integration.test_belt_survival import NAME, Road, notes, opened
from tests.lanes import Thing, consuming, ends, entries, eventually, publish, relaying, settled
from tests.own_stores import own_redis


@pytest.fixture
async def road(database_url: str, redis_url: str) -> AsyncIterator[Road]:
    """A road of this test's own."""
    async with opened(database_url, redis_url) as road:
        yield road


async def test_disk_is_read_again_when_entries_were_trimmed_and_taken_out(tmp_path: Path) -> None:
    """Lanes lose entries by trimming alone and queues by XDEL alone: both together leave what Redis cannot load."""
    async with own_redis(tmp_path) as store:
        async with Redis.from_url(store.url) as redis:
            writer = RedisWriter(redis)
            await writer.append([Batch(0, 0, [b"event"] * 500)])
            await writer.trim({0: 500})
            await put(redis, "queue", b"e", [b"job"] * 300)
            await redis.xdel("queue", *[identity for identity, _ in await entries(redis, "queue")])
            await redis.bgrewriteaof()
            await eventually(lambda: _rewritten(redis))
        store.end(signal.SIGKILL)
        await store.start()
        async with Redis.from_url(store.url) as redis:
            found = await ends(RedisWriter(redis), [0])
            left = await redis.xlen("queue")

    assert (found, left) == ({0: 500}, 0)


async def _rewritten(redis: Redis) -> bool:
    told = await redis.info("persistence")
    return not told["aof_rewrite_in_progress"] and not told["aof_rewrite_scheduled"]


async def test_event_is_handled_once_when_it_takes_longer_than_a_lease(road: Road) -> None:
    """No idle time makes an entry somebody else's: it is its owner's for as long as that lives."""
    began: list[int] = []

    @subscriber(NAME, Thing)
    async def slow(delivery: Delivery, thing: Thing) -> None:
        del delivery
        began.append(thing.number)
        await asyncio.sleep(2.2 * road.settings.lease_seconds)  # what it does

    async with relaying(road.settings), consuming(road.settings, slow), consuming(road.settings, slow):
        await publish(road.record, [Thing("a", 1)])
        await eventually(lambda: settled(road.driver, NAME, events=1))

    assert began == [1]


async def test_lag_is_right_when_entries_were_taken_out_of_the_stream(road: Road) -> None:
    """It is arithmetic on the record; what Redis calls lag is wrong or missing by now."""
    async with relaying(road.settings):
        await publish(road.record, [Thing("a", number) for number in range(6)])
        await eventually(lambda: _placed(road, 6))
        key = lane_key(await road.lane())
        await road.redis.xgroup_create(key, NAME, id="0")
        await road.redis.xdel(key, "2-0", "4-0")

        (status,) = await list_subscriptions(road.record, limit=10)

    assert status.lag == 6


async def _placed(road: Road, events: int) -> bool:
    if await road.driver.fetchval("SELECT sum(head) FROM lanes") != events:
        return False
    return bool((await ends(RedisWriter(road.redis), [await road.lane()]))[await road.lane()] == events)


async def test_nothing_is_left_pending_when_a_consumer_stops(road: Road) -> None:
    """A read is never cancelled, so that no entry is stranded with one who went; the next goes on at once."""
    async with relaying(road.settings):
        for _ in range(2):
            async with consuming(road.settings, notes):
                await road.publish(rounds=2)
                await road.settled()
            keys = [key.decode() async for key in road.redis.scan_iter("*lane*")]
            pending = [(await road.redis.xpending(key, NAME))["pending"] for key in keys]

            assert pending == [0] * len(keys)
    await road.expect_each_once()


async def test_one_connection_waits_for_all_lanes_of_a_subscription(road: Road) -> None:
    """Redis pays for each blocked reader at every append: there is one per subscription and process."""
    async with relaying(road.settings), consuming(road.settings, notes):
        await road.publish()
        await road.settled()

        await eventually(lambda: _blocked(road, 1))


async def _blocked(road: Road, count: int) -> bool:
    database = str(road.redis.connection_pool.connection_kwargs["db"])
    waiting = [one for one in await road.redis.client_list() if "b" in one["flags"] and one["db"] == database]
    return len(waiting) == count


async def test_reader_outlives_its_wait_when_nothing_comes(redis_url: str) -> None:
    """The client's own timeout for an answer is far above any wait, or an idle reader would be cut off."""
    reader = open_reader(redis_url)

    assert reader.connection_pool.connection_kwargs["socket_timeout"] > 2 * WAIT_SECONDS

    await reader.aclose()
