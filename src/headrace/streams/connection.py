"""The ways to Redis: a shared pool for commands that answer at once, a connection of its own for each blocking reader.

Owns the options of the client. A command that gets no answer fails in five seconds; a blocking read has longer, so that
only a Redis that is gone without a word ends it in the middle, and a connection that is never taken from the shared
pool. What a read that broke had been given is noticed by its positions. Never cancel a blocking read: let it end (its
BLOCK is short) and look at the stop flag then.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

COMMAND_TIMEOUT_SECONDS = 5.0
READER_TIMEOUT_SECONDS = 10.0
"""Far above any BLOCK: only a peer that is gone without a word takes so long."""

AWAY = (RedisConnectionError, RedisTimeoutError, OSError)
"""What a command raises while Redis is away; whoever meets it waits and goes on."""


def open_commands(redis_url: str, *, connections: int = 20) -> Redis:
    """Return the client for commands that answer at once; close it with `aclose`.

    Nothing is retried inside: a repeated command may find other state than the first one did, so its sender decides.
    """
    return Redis.from_url(
        redis_url,
        max_connections=connections,
        socket_timeout=COMMAND_TIMEOUT_SECONDS,
        socket_connect_timeout=COMMAND_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )


def open_reader(redis_url: str) -> Redis:
    """Return a client with the single connection of one blocking reader; close it with `aclose`."""
    reader = Redis.from_url(
        redis_url,
        single_connection_client=True,
        socket_timeout=READER_TIMEOUT_SECONDS,
        socket_connect_timeout=COMMAND_TIMEOUT_SECONDS,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )
    reader.set_response_callback("XREADGROUP", _as_it_came)
    return reader


async def command(redis: Redis, *parts: bytes | str | int) -> Any:  # noqa: ANN401 - each command has its own reply
    """Send one command and return its reply."""
    return await redis.execute_command(*parts)  # type: ignore[no-untyped-call]  # redis-py does not annotate it


def _as_it_came(response: Any, **_kwargs: Any) -> Any:  # noqa: ANN401 - the protocol of redis-py's callbacks
    """Leave a reply as the parser gave it: redis-py would build a dict for each of thousands of entries."""
    return response
