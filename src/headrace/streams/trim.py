"""Trimming: what every group has acknowledged leaves the stream.

Owns the one way in which entries leave a lane, `XTRIM MINID`. The bound comes from the checkpoints on record, never
from Redis, whose own idea of what is pending may be older or gone. Never cap a stream by length, and never XDEL: either
would take what some group has yet to handle, or leave holes that a replica cannot load.
"""

from __future__ import annotations

from collections.abc import Mapping

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from headrace.streams.names import entry_id, lane_key


async def trim(redis: Redis, acknowledged: Mapping[int, int]) -> int:
    """Remove the entries up to and including the acknowledged position of each lane; return how many that were."""
    pipeline = redis.pipeline(transaction=False)
    for lane, position in acknowledged.items():
        pipeline.execute_command("XTRIM", lane_key(lane), "MINID", "~", entry_id(position + 1))
    removed = 0
    for reply in await pipeline.execute(raise_on_error=False):
        if isinstance(reply, int):
            removed += reply
        elif isinstance(reply, Exception) and not isinstance(reply, ResponseError):
            raise reply
    return removed
