"""A work group is there, whatever became of Redis.

Owns its making, from the stream's beginning: what was put there before anybody read is delivered too. A key of another
kind that stands in the way is removed: Redis carries, and what it carried is on record. Never make a group at `$`.
"""

from __future__ import annotations

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

logger = structlog.get_logger(__name__)


async def ensure_group(redis: Redis, stream: str, group: str) -> None:
    """Make the group of a stream, and the stream, where they are missing.

    Raises:
        redis.exceptions.RedisError: Redis is away or takes no writes.

    """
    try:
        await redis.xgroup_create(stream, group, id="0", mkstream=True)
    except ResponseError as error:
        if str(error).startswith("WRONGTYPE"):
            logger.warning("wrong_type_replaced", key=stream)
            await redis.delete(stream)
            await redis.xgroup_create(stream, group, id="0", mkstream=True)
        elif not str(error).startswith("BUSYGROUP"):
            raise
