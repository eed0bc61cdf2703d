"""asyncpg's own connection out of the pool, for the few statements that must be fast.

Owns its borrowing. SQLAlchemy costs about as much as a batch of 500 rows does; the statements that carry every event go
past it, one by one, each its own transaction. A connection that broke is thrown away and not given back.
Never begin a transaction on it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine


@asynccontextmanager
async def borrowed(engine: AsyncEngine) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Lend a connection of the pool for the block."""
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        if driver is None:
            message = "the pool has lost its connection"
            raise ConnectionError(message)
        try:
            yield driver
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await connection.invalidate()
            raise
