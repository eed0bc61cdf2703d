"""Groups of subscriptions that are gone leave Redis.

Owns their removal from the streams of all lanes. A group is known by the name of its subscription; where the record has
no such subscription, nobody will ever read it again. One that was destroyed by mistake would be made anew at its
checkpoint. Never let a group decide what is trimmed.
"""

from __future__ import annotations

import asyncpg
import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from headrace.streams.names import lane_key

logger = structlog.get_logger(__name__)


async def remove_gone_groups(connection: asyncpg.Connection[asyncpg.Record], redis: Redis) -> int:
    """Remove the groups whose subscriptions are not on record; return how many that were."""
    removed = 0
    for row in await connection.fetch("SELECT lane FROM lanes ORDER BY lane"):
        key = lane_key(row["lane"])
        try:
            found = {group["name"].decode() for group in await redis.xinfo_groups(key)}
        except ResponseError:  # no stream, or a key of another type: there is no group
            continue
        if not found:
            continue
        known = await connection.fetch("SELECT name FROM subscriptions WHERE name = ANY($1)", sorted(found))
        for name in found - {one["name"] for one in known}:
            removed += await redis.xgroup_destroy(key, name)
            logger.info("group_removed", lane=row["lane"], group=name)
    return removed
