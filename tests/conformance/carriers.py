"""The transports that the conformance suite is run over, each with the misfortunes that can befall it.

Owns how each is opened, emptied and harmed. A transport of your own joins by one more `Carrier` here. What cannot
happen to a transport (nobody else writes into this process's memory over a network) is skipped with that reason.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import pytest
from redis.asyncio import Redis

from headrace.streams.connection import command, open_commands
from headrace.streams.in_process import InProcessTransport
from headrace.streams.names import lane_key
from headrace.streams.redis import open_transport
from headrace.streams.transport import Batch, LaneGroup, LaneWriter, Transport


class Carrier(Protocol):
    """A transport under test."""

    @property
    def transport(self) -> Transport:
        """The transport."""
        ...

    async def lose_lane(self, lane: int) -> None:
        """Take away a lane and its groups."""

    async def lose_group(self, lane: int, subscription: str) -> None:
        """Take away a group."""

    async def put_foreign(self, lane: int) -> None:
        """Put something in the place of a lane that is none."""

    async def break_connections(self) -> None:
        """End every connection of everybody."""


class RedisCarrier:
    """Redis, whatever stands at its URL."""

    def __init__(self, transport: Transport, redis: Redis) -> None:
        self.transport = transport
        self._redis = redis

    async def lose_lane(self, lane: int) -> None:
        """Delete the stream."""
        await self._redis.delete(lane_key(lane))

    async def lose_group(self, lane: int, subscription: str) -> None:
        """Destroy the consumer group."""
        await self._redis.xgroup_destroy(lane_key(lane), subscription)

    async def put_foreign(self, lane: int) -> None:
        """Put a string there."""
        await self._redis.set(lane_key(lane), "mine")

    async def break_connections(self) -> None:
        """Have the server hang up on everybody else."""
        await command(self._redis, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


class InProcessCarrier:
    """Lanes in memory."""

    def __init__(self) -> None:
        self.transport = InProcessTransport(capacity=1000)

    async def lose_lane(self, lane: int) -> None:
        """Forget the lane."""
        self.transport.lose(lane)

    async def lose_group(self, lane: int, subscription: str) -> None:
        """Forget the place of the subscription."""
        del self.transport.given[subscription, lane]
        self.transport.tell()

    async def put_foreign(self, lane: int) -> None:
        """Put something else there."""
        self.transport.lose(lane, foreign=True)

    async def break_connections(self) -> None:
        """Refuse: there are none."""
        pytest.skip("there are no connections within a process")


@asynccontextmanager
async def redis_carrier(redis_url: str) -> AsyncIterator[RedisCarrier]:
    """Open Redis as a carrier."""
    redis = open_commands(redis_url)
    try:
        async with open_transport(redis_url) as transport:
            yield RedisCarrier(transport, redis)
    finally:
        await redis.aclose()


async def read_all(group: LaneGroup, lanes: list[int], *, count: int = 100) -> dict[int, list[int]]:
    """Read until nothing comes; return the positions of each lane in the order in which they came."""
    read: dict[int, list[int]] = {lane: [] for lane in lanes}
    while found := await group.read(lanes, count=count, wait_seconds=0.05):
        for lane, entries in found.items():
            read[lane] += [entry.position for entry in entries]
    return read


async def ends(writer: LaneWriter, lanes: list[int]) -> dict[int, int]:
    """Return where each lane ends, by appending nothing to it."""
    return await writer.append([Batch(lane, 0, ()) for lane in lanes])


Harm = Callable[[Carrier], Awaitable[None]]
