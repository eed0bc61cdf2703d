"""Publish messages for FastStream: `python fill.py 60000`.

Owns the backlog: a thousand messages in one pipeline, as FastStream writes them, and the groups, from the beginning.
"""

from __future__ import annotations

import asyncio
import os
import sys

from faststream.redis import RedisBroker
from redis.asyncio import Redis

_STREAM = "peer"
_GROUPS = ("first", "second", "third")
_BATCH = 1000


async def _fill(messages: int) -> None:
    redis = Redis.from_url(os.environ["BENCH_REDIS_URL"])
    async with RedisBroker(os.environ["BENCH_REDIS_URL"], log_level=50) as broker:
        for first in range(0, messages, _BATCH):
            pipeline = redis.pipeline()
            for number in range(first, min(first + _BATCH, messages)):
                await broker.publish({"number": number, "text": "x" * 100}, stream=_STREAM, pipeline=pipeline)
            await pipeline.execute()
    for group in _GROUPS:
        await redis.xgroup_create(_STREAM, group, id="0")
    await redis.aclose()


asyncio.run(_fill(int(sys.argv[1])))
