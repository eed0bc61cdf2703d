"""arq in its best settings: `arq app.WorkerSettings`.

Owns the worker's settings: a poll each 10 ms instead of twice a second, a hundred jobs at once, a thousand read at a
poll, because fewer polls meet fewer jobs that run already, uvloop and hiredis, and no line of log for each result.
Results stay for the hour that arq keeps them by default.
"""

from __future__ import annotations

import asyncio
import os

import uvloop
from arq.connections import RedisSettings

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # arq takes its loop from the policy

REDIS = RedisSettings.from_dsn(os.environ["BENCH_REDIS_URL"])


async def echo(_context: object, value: object) -> object:
    """Return the value."""
    return value


class WorkerSettings:
    """What `arq` reads."""

    functions = (echo,)
    redis_settings = REDIS
    poll_delay = 0.01
    max_jobs = 100
    queue_read_limit = 1000
    log_results = False
