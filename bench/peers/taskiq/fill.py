"""Put messages for Taskiq on its stream: `python fill.py 20000`.

Owns the backlog. The messages are those that `echo.kiq` would send, written a thousand at a time.
"""

from __future__ import annotations

import asyncio
import sys
import uuid

from app import REDIS_URL, STREAM, broker, echo
from redis.asyncio import Redis
from taskiq import TaskiqMessage

_BATCH = 1000


async def _fill(jobs: int) -> None:
    async with Redis.from_url(REDIS_URL) as redis:
        for first in range(0, jobs, _BATCH):
            async with redis.pipeline(transaction=False) as pipeline:
                for number in range(first, min(first + _BATCH, jobs)):
                    message = TaskiqMessage(
                        task_id=uuid.uuid4().hex, task_name=echo.task_name, labels={}, args=[number], kwargs={}
                    )
                    pipeline.xadd(STREAM, {b"data": broker.formatter.dumps(message).message})
                await pipeline.execute()


asyncio.run(_fill(int(sys.argv[1])))
