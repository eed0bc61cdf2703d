"""Enqueue jobs for SAQ: `python fill.py 20000`.

Owns the backlog, enqueued one by one as SAQ does it, a hundred at a time.
"""

from __future__ import annotations

import asyncio
import sys

from app import queue

_BATCH = 100


async def _fill(jobs: int) -> None:
    await queue.connect()
    for first in range(0, jobs, _BATCH):
        numbers = range(first, min(first + _BATCH, jobs))
        await asyncio.gather(*(queue.enqueue("echo", value=number) for number in numbers))
    await queue.disconnect()


asyncio.run(_fill(int(sys.argv[1])))
