"""Compare-and-append: what enters a lane's stream, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from headrace.streams.append import RedisWriter
from headrace.streams.connection import open_commands
from headrace.streams.names import FOREIGN, lane_key
from headrace.streams.transport import WRONG_TYPE, Batch
from tests.lanes import ends, positions


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client on an empty database."""
    client = open_commands(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def writer(redis: Redis) -> RedisWriter:
    """A writer of lanes."""
    return RedisWriter(redis)


async def test_batch_enters_when_it_follows_the_last_position(redis: Redis, writer: RedisWriter) -> None:
    """Batches that follow one another make a dense stream."""
    await writer.append([Batch(0, 0, [b"a", b"b"])])

    reached = await writer.append([Batch(0, 2, [b"c"]), Batch(1, 0, [b"x"])])

    assert reached == {0: 3, 1: 1}
    assert await positions(redis, 0) == [1, 2, 3]
    assert await positions(redis, 1) == [1]


async def test_batch_is_refused_when_it_was_appended_before(redis: Redis, writer: RedisWriter) -> None:
    """Publishing twice is impossible: the second time nothing is written, and the real end is told."""
    await writer.append([Batch(0, 0, [b"a", b"b"])])

    reached = await writer.append([Batch(0, 0, [b"a", b"b"])])

    assert reached == {0: 2}
    assert await positions(redis, 0) == [1, 2]


async def test_batch_is_refused_when_the_tail_before_it_is_lost(redis: Redis, writer: RedisWriter) -> None:
    """A stream that ends too early takes nothing from further on."""
    await writer.append([Batch(0, 0, [b"a"])])

    reached = await writer.append([Batch(0, 5, [b"f"])])

    assert reached == {0: 1}
    assert await positions(redis, 0) == [1]


async def test_one_lane_goes_on_when_another_is_refused(redis: Redis, writer: RedisWriter) -> None:
    """Each lane is compared for itself."""
    reached = await writer.append([Batch(0, 7, [b"h"]), Batch(1, 0, [b"a"])])

    assert reached == {0: 0, 1: 1}
    assert await positions(redis, 1) == [1]


async def test_wrong_type_is_told_when_another_key_stands_there(redis: Redis, writer: RedisWriter) -> None:
    """A key that is no stream is neither overwritten nor taken for an empty one."""
    await redis.set(lane_key(0), "mine")

    reached = await writer.append([Batch(0, 0, [b"a"])])

    assert reached == {0: WRONG_TYPE}
    assert await ends(writer, [0]) == {0: WRONG_TYPE}
    assert await redis.get(lane_key(0)) == b"mine"


async def test_stream_counts_as_foreign_when_a_stranger_wrote_to_it(redis: Redis, writer: RedisWriter) -> None:
    """An entry with a clock's id, or with a second part, lies past every position."""
    await redis.xadd(lane_key(0), {"e": "?"}, id="3-1")
    await redis.xadd(lane_key(1), {"e": "?"})

    reached = await ends(writer, [0, 1])

    assert reached[0] == FOREIGN
    assert reached[1] > 1_000_000_000_000


@pytest.mark.parametrize("before", ["missing", "string", "ahead"])
async def test_stream_begins_anew_when_it_is_rebased(redis: Redis, writer: RedisWriter, before: str) -> None:
    """Whatever stood there, the stream is empty and ends at the position asked for."""
    if before == "string":
        await redis.set(lane_key(0), "mine")
    if before == "ahead":
        await writer.append([Batch(0, 0, [b"a"] * 50)])

    await writer.rebase(0, 41)

    assert await ends(writer, [0]) == {0: 41}
    assert await writer.append([Batch(0, 41, [b"next"])]) == {0: 42}
    assert await positions(redis, 0) == [42]


async def test_groups_stay_when_a_stream_that_was_never_used_is_rebased(redis: Redis, writer: RedisWriter) -> None:
    """A consumer that came first has made the stream and its group: both are kept."""
    await redis.xgroup_create(lane_key(0), "shop.welcome", id="41-0", mkstream=True)

    await writer.rebase(0, 41)

    assert [group["name"] for group in await redis.xinfo_groups(lane_key(0))] == [b"shop.welcome"]
    assert await ends(writer, [0]) == {0: 41}


async def test_append_goes_on_when_the_scripts_are_forgotten(redis: Redis, writer: RedisWriter) -> None:
    """A restarted Redis knows no script: it is loaded again, and nothing is written twice."""
    await writer.append([Batch(0, 0, [b"a"])])
    await redis.script_flush()

    reached = await writer.append([Batch(0, 1, [b"b"]), Batch(1, 0, [b"x"])])

    assert reached == {0: 2, 1: 1}
    assert await positions(redis, 0) == [1, 2]


async def test_lane_is_trimmed_at_once_when_much_was_acknowledged(writer: RedisWriter) -> None:
    """Redis by itself would stop after ten thousand, and a fast lane would grow."""
    for before in range(0, 15_000, 5000):
        await writer.append([Batch(0, before, [b"e"] * 5000)])

    removed = await writer.trim({0: 15_000})

    assert removed == 15_000
