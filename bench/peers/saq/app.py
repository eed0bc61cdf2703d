"""SAQ in its best settings: `saq app.settings`.

Owns the queue and the worker's settings: a hundred jobs at once, as many operations on Redis at once, uvloop and
hiredis. Results stay in the jobs, for the ten minutes that SAQ keeps them by default.
"""

from __future__ import annotations

import asyncio
import os

import uvloop
from saq import Queue
from saq.types import Context, SettingsDict

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # SAQ's CLI makes its loop by the policy

_AT_ONCE = 100
queue = Queue.from_url(os.environ["BENCH_REDIS_URL"], name="peer", max_concurrent_ops=_AT_ONCE)


async def echo(_context: Context, *, value: object) -> object:
    """Return the value."""
    return value


settings: SettingsDict = {"queue": queue, "functions": [echo], "concurrency": _AT_ONCE}
