"""SAQ in its best settings: `saq app.settings`.

Owns the queue and the worker's settings: 32 jobs at once, as many operations on Redis at once and connections enough
for all of them, uvloop and hiredis. Results stay in the jobs, for the ten minutes that SAQ keeps them by default.
"""

from __future__ import annotations

import asyncio
import os

import uvloop
from redis.asyncio import Redis
from saq.queue.redis import RedisQueue
from saq.types import Context, SettingsDict

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # SAQ's CLI makes its loop by the policy

_AT_ONCE = 32
_redis = Redis.from_url(os.environ["BENCH_REDIS_URL"], max_connections=1000)  # redis-py's own bound loses SAQ jobs
queue = RedisQueue(_redis, name="peer", max_concurrent_ops=_AT_ONCE)


async def echo(_context: Context, *, value: object) -> object:
    """Return the value."""
    return value


settings: SettingsDict = {"queue": queue, "functions": [echo], "concurrency": _AT_ONCE}
