"""Is everything alive? What an operator, a load balancer and `headrace up` ask.

Owns the look at the whole system: PostgreSQL, Redis, the leading relay, and a process of every role. What is
missing is named together with since when: as the record tells it, or else since this process has noticed, which
looks every second. Never make the acceptance of work depend on this: accepting needs PostgreSQL alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any, Final

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import Row, text
from sqlalchemy.exc import SQLAlchemyError

from headrace.clock import now
from headrace.database.away import is_away
from headrace.database.record import Record
from headrace.loops import Pace, Stop, repeat
from headrace.settings import Settings
from headrace.streams.connection import open_commands

PARTS: Final = ("relay", "worker", "consume", "cron")
_PACE: Final = Pace(interval_seconds=1.0, last_backoff_seconds=2.0)
_PATIENCE_SECONDS: Final = 2.0

_ROLES = text("""
    SELECT role, count(*) FILTER (WHERE expires_at > now()) AS alive, max(seen_at) AS seen_at
    FROM processes GROUP BY role
""")

_LEASE = text("SELECT expires_at > now() AS held, expires_at FROM leases WHERE name = 'relay'")


class Missing(msgspec.Struct, frozen=True):
    """A part that is not alive."""

    part: str
    """`postgresql`, `redis`, `relay`, `worker`, `consume` or `cron`."""
    since: datetime
    message: str


class SystemHealth(msgspec.Struct, frozen=True):
    """What is missing; `ok` only where nothing is."""

    status: str
    missing: list[Missing]


class SystemWatch:
    """Looks at the whole system, and remembers since when a part is missing."""

    def __init__(self, record: Record, redis: Redis) -> None:
        self._record = record
        self._redis = redis
        self._noticed_at: dict[str, datetime] = {}

    async def look(self) -> SystemHealth:
        """Look at everything once."""
        found = [*await self._postgresql(), *await self._belt()]
        self._noticed_at = {part: self._noticed_at.get(part, now()) for part, _, _ in found}
        missing = [Missing(part, since or self._noticed_at[part], message) for part, since, message in found]
        return SystemHealth("missing" if missing else "ok", missing)

    async def _postgresql(self) -> list[tuple[str, datetime | None, str]]:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS), self._record.engine.connect() as connection:
                roles = {row.role: row for row in await connection.execute(_ROLES)}
                lease = (await connection.execute(_LEASE)).one_or_none()
        except Exception as error:
            if not is_away(error) and not isinstance(error, (SQLAlchemyError, OSError)):
                raise
            return [("postgresql", None, "PostgreSQL does not answer, so nothing is known of the processes")]
        return [*_missing_roles(roles, lease)]

    async def _belt(self) -> list[tuple[str, datetime | None, str]]:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._redis.ping()
        except (RedisError, OSError):
            return [("redis", None, "Redis does not answer")]
        return []


def _missing_roles(roles: dict[str, Row[Any]], lease: Row[Any] | None) -> Iterator[tuple[str, datetime | None, str]]:
    for role in PARTS:
        row = roles.get(role)
        if row is None or not row.alive:
            yield role, None if row is None else row.seen_at, f"no process of the role {role} is alive"
        elif role == "relay" and not (lease and lease.held):
            yield role, _finite(lease), "no relay process leads at present"


def _finite(lease: Row[Any] | None) -> datetime | None:
    """Return when the lease ran out; it is -infinity where it was given back, which asyncpg reads as the year 1."""
    return lease.expires_at if lease and lease.expires_at.year > 1 else None


@asynccontextmanager
async def open_watch(settings: Settings, record: Record) -> AsyncIterator[SystemWatch]:
    """Watch the system for as long as the block runs."""
    redis = open_commands(settings.redis_url, connections=2)
    watch = SystemWatch(record, redis)
    stop = Stop()
    looking = asyncio.create_task(repeat("watch", watch.look, _PACE, stop))
    try:
        yield watch
    finally:
        stop.set()  # a store's client that is just connecting can swallow the cancellation
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
        await redis.aclose()
