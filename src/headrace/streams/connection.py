"""The ways to Redis: a shared pool for commands that answer at once, a connection of its own for each blocking reader.

Owns the options of the client. A command that gets no answer fails in five seconds; a blocking read has longer, so that
only a Redis that is gone without a word ends it in the middle, and a connection that is never taken from the shared
pool. What a read that broke had been given is noticed by its positions. Never cancel a blocking read: let it end (its
BLOCK is short) and look at the stop flag then.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from headrace.belt import PREFIX
from headrace.streams.address import address_of
from headrace.streams.primary import PrimaryConnection, TlsPrimaryConnection, finder_of

COMMAND_TIMEOUT_SECONDS = 5.0
READER_TIMEOUT_SECONDS = 10.0
"""Far above any BLOCK: only a peer that is gone without a word takes so long."""

_PRIMARY = {Connection: PrimaryConnection, SSLConnection: TlsPrimaryConnection}
"""A connection over a Unix socket stays what it is."""

AWAY = (RedisConnectionError, RedisTimeoutError, OSError)
"""What a command raises while Redis is away; whoever meets it waits and goes on."""


def open_commands(redis_url: str, *, connections: int = 20) -> Redis:
    """Return the client for commands that answer at once; close it with `aclose`.

    Nothing is retried inside: a repeated command may find other state than the first one did, so its sender decides.

    Raises:
        ConfigurationError: the URL is none that `address` knows.

    """
    return _client(pool_of(redis_url, connections=connections))


def open_reader(redis_url: str) -> Redis:
    """Return a client with the single connection of one blocking reader; close it with `aclose`."""
    pool = pool_of(redis_url, connections=1, socket_timeout=READER_TIMEOUT_SECONDS)
    reader = _client(pool, single_connection=True)
    reader.set_response_callback("XREADGROUP", _as_it_came)
    return reader


def pool_of(
    redis_url: str, *, connections: int, socket_timeout: float = COMMAND_TIMEOUT_SECONDS, key: str = PREFIX
) -> ConnectionPool:
    """Return connections to the primary that has `key`; none is open yet."""
    address = address_of(redis_url)
    given = dict(address.options)
    kind = given.pop("connection_class", Connection)
    finder = finder_of(address, key)
    if finder is not None:
        given["finder"] = finder
    given |= {
        "socket_timeout": socket_timeout,
        "socket_connect_timeout": COMMAND_TIMEOUT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    return ConnectionPool(connection_class=_PRIMARY.get(kind, kind), max_connections=connections, **given)


def _client(pool: ConnectionPool, *, single_connection: bool = False) -> Redis:
    client = Redis(connection_pool=pool, single_connection_client=single_connection)
    client.auto_close_connection_pool = True  # `Redis.from_pool` says so too, and knows no single connection
    return client


async def command(redis: Redis, *parts: bytes | str | int) -> Any:  # noqa: ANN401 - each command has its own reply
    """Send one command and return its reply."""
    return await redis.execute_command(*parts)  # type: ignore[no-untyped-call]  # redis-py does not annotate it


def _as_it_came(response: Any, **_kwargs: Any) -> Any:  # noqa: ANN401 - the protocol of redis-py's callbacks
    """Leave a reply as the parser gave it: redis-py would build a dict for each of thousands of entries."""
    return response
