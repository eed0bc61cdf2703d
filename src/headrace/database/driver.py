"""asyncpg's own connection out of the pool, for the few statements that must be fast.

Owns its borrowing. SQLAlchemy costs about as much as a batch of 500 rows does; the statements that carry every event go
past it: `borrowed` for one by one, each its own transaction, `within` for those of a transaction that SQLAlchemy began.
A connection that broke is thrown away and not given back.
Never begin, commit or roll back on it: `commit` here ends what `within` has begun.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from headrace.database.away import DRIVER_ERRORS
from headrace.errors import UnavailableError

ONE_BY_ONE: Final = {"jit": "off", "enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}
"""The settings of a connection whose every statement finds few rows, one by one, by an index. Left alone, PostgreSQL
takes a LIMIT that comes at run time for a tenth of what waits, and reads all jobs, finished ones too, to join them; or
all jobs in flight, to find the forty that were read from the belt."""

_BEGUN = "headrace.begun"
"""Where a connection keeps SQLAlchemy's name of the transaction that `within` began."""


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
        except DRIVER_ERRORS:
            await connection.invalidate()
            raise


async def within(connection: AsyncConnection) -> asyncpg.Connection[asyncpg.Record]:
    """Return the driver of a connection, inside its transaction.

    SQLAlchemy begins only with the first statement that goes through it: what went to the driver before would commit by
    itself. So the transaction is begun here, by the way that SQLAlchemy itself begins it, and it will end it too.
    """
    raw = await connection.get_raw_connection()
    driver = raw.driver_connection
    if driver is None or raw.dbapi_connection is None:
        message = "the pool has lost its connection"
        raise ConnectionError(message)
    if driver.is_closed():  # PostgreSQL was restarted: given back to the pool it would fail the next one too
        await connection.invalidate()
        message = "the record has closed the connection"
        raise UnavailableError(message)
    if not driver.is_in_transaction():
        await raw.dbapi_connection._start_transaction()  # noqa: SLF001 - SQLAlchemy has no other way to begin at once
    known = connection.sync_connection
    if known is not None and not known.in_transaction():  # or a rollback by SQLAlchemy would end nothing
        connection.info[_BEGUN] = known.begin()
    return driver


async def commit(connection: AsyncConnection) -> None:
    """Commit the transaction of a connection, whoever has begun it; one that nobody has begun is nothing to commit.

    What `within` has begun is committed past SQLAlchemy: its way there costs as much as the statement.
    """
    known = connection.sync_connection
    if known is not None and known.in_transaction() and connection.info.get(_BEGUN) is not known.get_transaction():
        await connection.commit()
        return
    adapted = (await connection.get_raw_connection()).dbapi_connection
    if adapted is None or not adapted._started:  # noqa: SLF001 - what `within` has begun, SQLAlchemy knows by this alone
        return
    try:
        await adapted._commit_and_discard()  # noqa: SLF001 - what SQLAlchemy's own commit calls
    except DRIVER_ERRORS:
        await connection.invalidate()
        raise
