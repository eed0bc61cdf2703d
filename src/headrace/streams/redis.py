"""The lanes in Redis: the transport that a deployment has.

Owns how its parts are put together: one shared pool for commands that answer at once, and for each reader a connection
of its own, because a read blocks. Never hand a reader's connection to anybody else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from headrace.streams.append import RedisWriter
from headrace.streams.connection import open_commands, open_reader
from headrace.streams.groups import RedisGroup


class RedisTransport:
    """Lanes as streams, groups as consumer groups (see `transport.Transport`)."""

    def __init__(self, redis: Redis, redis_url: str) -> None:
        """Use the pool `redis`, which the caller owns; readers connect to `redis_url`."""
        self._redis = redis
        self._redis_url = redis_url

    def writer(self) -> RedisWriter:
        """Return the relay's side."""
        return RedisWriter(self._redis)

    @asynccontextmanager
    async def group(self, subscription: str, reader: str) -> AsyncIterator[RedisGroup]:
        """Open the side of a subscription."""
        connection = open_reader(self._redis_url)
        try:
            yield RedisGroup(self._redis, connection, subscription, reader)
        finally:
            await connection.aclose()


@asynccontextmanager
async def open_transport(redis_url: str) -> AsyncIterator[RedisTransport]:
    """Open the transport of a process for the block; Redis itself may be away."""
    redis = open_commands(redis_url)
    try:
        yield RedisTransport(redis, redis_url)
    finally:
        await redis.aclose()
