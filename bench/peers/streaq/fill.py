"""Enqueue tasks for streaQ: `python fill.py 20000`.

Owns the backlog, a thousand tasks in one pipeline.
"""

from __future__ import annotations

import asyncio
import sys

from app import echo, worker

_BATCH = 1000


async def _fill(jobs: int) -> None:
    async with worker:
        for first in range(0, jobs, _BATCH):
            await worker.enqueue_many([echo.enqueue(number) for number in range(first, min(first + _BATCH, jobs))])


asyncio.run(_fill(int(sys.argv[1])))
