"""Defer jobs of Procrastinate: `python fill.py 20000`.

Owns the schema, which it creates in an empty database, and the backlog, a thousand jobs in one statement.
"""

from __future__ import annotations

import asyncio
import sys

from app import app, echo

_BATCH = 1000


async def _fill(jobs: int) -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for first in range(0, jobs, _BATCH):
            await echo.batch_defer_async(*({"value": number} for number in range(first, min(first + _BATCH, jobs))))


asyncio.run(_fill(int(sys.argv[1])))
