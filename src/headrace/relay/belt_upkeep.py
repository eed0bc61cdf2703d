"""The belt is made to agree with the record.

Owns the repair of the job queues' streams. A job that is `queued` for two seconds and waits on no belt (Redis was
emptied, an entry went to a worker that died before its claim) is pending again; its next release has a higher fence, so
that the old entry, should it turn up, wins nothing. Consumers of dead workers, and what they had read, are taken away.
Recovery never reads the belt to learn what should run: the record knows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import asyncpg
import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from headrace.database.mends import Mend, note_mend
from headrace.jobs.belt import FIELD, GROUP, stream_of
from headrace.jobs.model import Claim, Key

logger = structlog.get_logger(__name__)

_STALE = """
    SELECT id, fence, queue FROM jobs
    WHERE state = 'queued' AND released_at < now() - make_interval(secs => 2) LIMIT 5000
"""
_RETURN = """
    UPDATE jobs SET state = 'pending', released_at = NULL
    FROM unnest($1::uuid[], $2::integer[]) AS lost(id, fence)
    WHERE jobs.id = lost.id AND jobs.fence = lost.fence AND jobs.state = 'queued'
"""
_LIVE = "SELECT id::text AS id FROM processes WHERE role = 'worker' AND expires_at > now()"
_QUEUES = "SELECT name FROM queues"
_PAGE = 1000


async def return_lost(connection: asyncpg.Connection[asyncpg.Record], redis: Redis) -> int:
    """Make jobs pending again that are queued and on no belt; return how many."""
    return await return_absent(connection, lambda queue: _waiting_on(redis, queue))


async def return_absent(
    connection: asyncpg.Connection[asyncpg.Record], waiting_on: Callable[[str], Awaitable[Collection[Key]]]
) -> int:
    """Make jobs pending again that are queued and, for `waiting_on`, do not wait on their queue; return how many."""
    stale = await connection.fetch(_STALE)
    lost: list[asyncpg.Record] = []
    for queue in {row["queue"] for row in stale}:
        waiting = await waiting_on(queue)
        lost += [row for row in stale if row["queue"] == queue and (row["id"], row["fence"]) not in waiting]
    if lost:
        await connection.execute(_RETURN, [row["id"] for row in lost], [row["fence"] for row in lost])
        await note_mend(connection, Mend.JOBS_LOST, len(lost))
        logger.warning("belt_lost_jobs", count=len(lost), first=str(lost[0]["id"]))
    return len(lost)


async def remove_dead_consumers(connection: asyncpg.Connection[asyncpg.Record], redis: Redis) -> int:
    """Take away the consumers of workers that are gone, with the entries they held; return how many consumers."""
    live = {row["id"] for row in await connection.fetch(_LIVE)}
    removed = 0
    for row in await connection.fetch(_QUEUES):
        removed += await _remove_dead_of(redis, stream_of(row["name"]), live)
    return removed


async def _waiting_on(redis: Redis, queue: str) -> set[Key]:
    """Return the jobs whose entries no worker has read yet."""
    stream = stream_of(queue)
    try:
        groups = await redis.xinfo_groups(stream)
    except ResponseError:  # no stream, or a key of another type: nothing waits there
        return set()
    delivered = next((group["last-delivered-id"] for group in groups if group["name"] == GROUP.encode()), b"0-0")
    waiting: set[Key] = set()
    while entries := await redis.xrange(stream, min=b"(" + delivered, count=_PAGE):
        waiting.update(key for _, fields in entries if (key := _key_of(fields)) is not None)
        delivered = entries[-1][0]
    return waiting


def _key_of(fields: Mapping[Any, Any] | None) -> Key | None:
    try:
        return msgspec.msgpack.decode((fields or {}).get(FIELD, b""), type=Claim).key
    except msgspec.DecodeError:
        return None


async def _remove_dead_of(redis: Redis, stream: str, live: Collection[str]) -> int:
    try:
        consumers = await redis.xinfo_consumers(stream, GROUP)
    except ResponseError:
        return 0
    dead = [consumer["name"] for consumer in consumers if consumer["name"].decode() not in live]
    for name in dead:
        await _remove_entries_of(redis, stream, name)
        await redis.xgroup_delconsumer(stream, GROUP, name)
    return len(dead)


async def _remove_entries_of(redis: Redis, stream: str, consumer: bytes) -> None:
    while entries := await redis.xpending_range(stream, GROUP, min="-", max="+", count=_PAGE, consumername=consumer):
        ids = [entry["message_id"] for entry in entries]
        await redis.xack(stream, GROUP, *ids)
        await redis.xdel(stream, *ids)
