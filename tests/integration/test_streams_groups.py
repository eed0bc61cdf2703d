"""Groups in Redis: what of them can be seen in Redis itself; what every transport keeps is in `tests/conformance`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from headrace.streams.append import RedisWriter
from headrace.streams.connection import open_commands, open_reader
from headrace.streams.groups import RedisGroup
from headrace.streams.names import lane_key
from headrace.streams.transport import Batch, GroupLostError
from tests.lanes import ends, positions

GROUP = "shop.welcome"
AT_ONCE = 0.01


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client on a database whose lane 0 holds ten entries."""
    client = open_commands(redis_url)
    await RedisWriter(client).append([Batch(0, 0, [b"%d" % number for number in range(1, 11)])])
    yield client
    await client.aclose()


@pytest.fixture
async def group(redis: Redis, redis_url: str) -> AsyncIterator[RedisGroup]:
    """A reader of the group, named `one`."""
    connection = open_reader(redis_url)
    yield RedisGroup(redis, connection, GROUP, "one")
    await connection.aclose()


async def test_gone_consumer_is_forgotten_when_the_group_is_rewound(
    redis: Redis, redis_url: str, group: RedisGroup
) -> None:
    """What it had been given is nobody's any more, and its name does not pile up."""
    await group.rewind(0, 0)
    gone = open_reader(redis_url)
    await RedisGroup(redis, gone, GROUP, "gone").read([0], count=10, wait_seconds=AT_ONCE)
    await gone.aclose()

    await group.rewind(0, 4)
    await group.read([0], count=100, wait_seconds=AT_ONCE)

    assert [one["name"] for one in await redis.xinfo_consumers(lane_key(0), GROUP)] == [b"one"]


async def test_nothing_is_pending_when_all_is_acknowledged(redis: Redis, group: RedisGroup) -> None:
    """Acknowledging takes entries off the group's list."""
    await group.rewind(0, 0)
    await group.read([0], count=10, wait_seconds=AT_ONCE)

    await group.acknowledge({0: list(range(1, 11))})

    assert (await redis.xpending(lane_key(0), GROUP))["pending"] == 0


async def test_reading_says_so_when_the_group_is_gone(redis: Redis, group: RedisGroup) -> None:
    """A deleted group and a deleted stream have the same mend."""
    for spoil in (redis.xgroup_destroy(lane_key(0), GROUP), redis.delete(lane_key(0))):
        await spoil

        with pytest.raises(GroupLostError):
            await group.read([0], count=1, wait_seconds=AT_ONCE)


async def test_reading_says_so_when_another_key_stands_there(redis: Redis, group: RedisGroup) -> None:
    """A string in place of the stream is no reason to crash."""
    await redis.set(lane_key(1), "mine")

    with pytest.raises(GroupLostError):
        await group.read([1], count=1, wait_seconds=AT_ONCE)


async def test_stream_keeps_its_end_when_everything_is_trimmed(redis: Redis) -> None:
    """Trimming by position leaves the last id, so that the next append still compares."""
    writer = RedisWriter(redis)
    await writer.append([Batch(0, 10, [b"x"] * 490)])

    removed = await writer.trim({0: 500, 2: 9})

    assert removed >= 400
    assert await ends(writer, [0, 2]) == {0: 500, 2: 0}
    assert all(position > removed for position in await positions(redis, 0))
