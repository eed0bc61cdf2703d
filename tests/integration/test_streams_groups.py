"""Groups: begun at a checkpoint, rewound to it, and trimmed behind all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from headrace.streams.append import Batch, LaneWriter
from headrace.streams.connection import open_commands, open_reader
from headrace.streams.groups import GroupLostError, Groups, Reader
from headrace.streams.trim import trim
from tests.lanes import positions

GROUP = "shop.welcome"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client on a database whose lane 0 holds ten entries."""
    client = open_commands(redis_url)
    await LaneWriter(client).append([Batch(0, 0, [b"%d" % number for number in range(1, 11)])])
    yield client
    await client.aclose()


@pytest.fixture
async def reader(redis_url: str) -> AsyncIterator[Reader]:
    """A reader of the group."""
    client = open_reader(redis_url)
    yield Reader(client, GROUP, "one")
    await client.aclose()


async def test_group_begins_after_its_checkpoint_when_it_is_new(redis: Redis, reader: Reader) -> None:
    """What lies before the checkpoint is not delivered, what lies after it is, with its payload."""
    await Groups(redis, GROUP).rewind(0, 7)

    read = await reader.read([0], count=100, block_milliseconds=10)

    assert [(entry.position, entry.payload) for entry in read[0]] == [(8, b"8"), (9, b"9"), (10, b"10")]


async def test_entries_come_again_when_their_owner_is_gone(redis: Redis, redis_url: str, reader: Reader) -> None:
    """What another consumer was given and did not settle is delivered anew, and that consumer is forgotten."""
    groups = Groups(redis, GROUP)
    await groups.rewind(0, 0)
    gone = open_reader(redis_url)
    await Reader(gone, GROUP, "gone").read([0], count=10, block_milliseconds=10)
    await gone.aclose()

    await groups.rewind(0, 4)
    read = await reader.read([0], count=100, block_milliseconds=10)

    assert [entry.position for entry in read[0]] == [5, 6, 7, 8, 9, 10]
    assert [one["name"] for one in await redis.xinfo_consumers("headrace:lane:0", GROUP)] == [b"one"]


async def test_nothing_is_pending_when_all_is_acknowledged(redis: Redis, reader: Reader) -> None:
    """Acknowledging takes entries off the group's list."""
    groups = Groups(redis, GROUP)
    await groups.rewind(0, 0)
    await reader.read([0], count=10, block_milliseconds=10)

    await groups.acknowledge({0: list(range(1, 11))})

    assert (await redis.xpending("headrace:lane:0", GROUP))["pending"] == 0


async def test_reading_says_so_when_the_group_is_gone(redis: Redis, reader: Reader) -> None:
    """A deleted group, a deleted stream and a key of another kind all have the same mend."""
    for spoil in (redis.xgroup_destroy("headrace:lane:0", GROUP), redis.delete("headrace:lane:0")):
        await spoil

        with pytest.raises(GroupLostError):
            await reader.read([0], count=1, block_milliseconds=10)


async def test_reading_says_so_when_another_key_stands_there(redis: Redis, reader: Reader) -> None:
    """A string in place of the stream is no reason to crash."""
    await redis.set("headrace:lane:1", "mine")

    with pytest.raises(GroupLostError):
        await reader.read([1], count=1, block_milliseconds=10)


async def test_delivered_position_is_told_when_asked(redis: Redis, reader: Reader) -> None:
    """The group's place is known per lane; a lane without the group has none."""
    groups = Groups(redis, GROUP)
    await groups.rewind(0, 0)
    await reader.read([0], count=3, block_milliseconds=10)

    delivered = await groups.delivered([0, 3])

    assert delivered == {0: 3, 3: None}


async def test_stream_keeps_its_end_when_everything_is_trimmed(redis: Redis) -> None:
    """Trimming by position leaves the last id, so that the next append still compares."""
    writer = LaneWriter(redis)
    await writer.append([Batch(0, 10, [b"x"] * 490)])

    removed = await trim(redis, {0: 500, 2: 9})

    assert removed >= 400
    assert await writer.ends([0, 2]) == {0: 500, 2: 0}
    assert all(position > removed for position in await positions(redis, 0))
