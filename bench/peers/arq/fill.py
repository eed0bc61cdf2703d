"""Enqueue jobs for arq: `python fill.py 20000`.

Owns the backlog, enqueued one by one as arq does it, a hundred at a time.
"""

from __future__ import annotations

import asyncio
import sys

from app import REDIS
from arq import create_pool

_BATCH = 100


async def _fill(jobs: int) -> None:
    pool = await create_pool(REDIS)
    for first in range(0, jobs, _BATCH):
        numbers = range(first, min(first + _BATCH, jobs))
        await asyncio.gather(*(pool.enqueue_job("echo", number) for number in numbers))
    await pool.aclose()


asyncio.run(_fill(int(sys.argv[1])))
