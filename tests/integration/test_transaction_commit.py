"""A transaction ends as a whole, whichever way its statements went."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import text

from headrace.database.away import is_away
from headrace.database.record import Record, open_record
from headrace.settings import Settings
from headrace.transaction import Transaction, transaction

BY_DRIVER = "INSERT INTO queues (name) VALUES ('driver')"
BY_SQLALCHEMY = text("INSERT INTO queues (name) VALUES ('sqlalchemy')")


@pytest.fixture
async def record(database_url: str) -> AsyncIterator[Record]:
    """A record with one connection, so that what is left on it is met by the next user."""
    async with open_record(Settings(database_url=database_url), pool_size=1) as opened:
        yield opened


async def write(tx: Transaction, ways: str) -> None:
    """Write in the order of `ways`: d by the driver, s by SQLAlchemy."""
    for way in ways:
        if way == "d":
            await (await tx.driver()).execute(BY_DRIVER)
        else:
            await tx.connection.execute(BY_SQLALCHEMY)


async def names(record: Record) -> set[str]:
    """Return the queues on record."""
    async with record.engine.connect() as connection:
        return set((await connection.execute(text("SELECT name FROM queues"))).scalars())


@pytest.mark.parametrize(
    ("ways", "written"),
    [
        ("", set()),
        ("d", {"driver"}),
        ("s", {"sqlalchemy"}),
        ("ds", {"driver", "sqlalchemy"}),
        ("sd", {"driver", "sqlalchemy"}),
    ],
)
async def test_everything_is_on_record_when_a_transaction_ends_well(
    record: Record, ways: str, written: set[str]
) -> None:
    """Statements of both ways commit together, also where there is only one kind, or none."""
    async with transaction(record) as tx:
        await write(tx, ways)

    assert await names(record) == written


@pytest.mark.parametrize("ways", ["", "d", "s", "ds", "sd"])
async def test_nothing_is_on_record_when_a_transaction_raises(record: Record, ways: str) -> None:
    """Statements of both ways are rolled back together, and the connection serves the next one."""
    with pytest.raises(ZeroDivisionError):
        async with transaction(record) as tx:
            await write(tx, ways)
            raise ZeroDivisionError

    assert await names(record) == set()


async def test_nothing_is_on_record_when_a_transaction_is_cancelled(record: Record) -> None:
    """A cancelled transaction is rolled back, and the connection serves the next one."""
    written = asyncio.Event()

    async def wait_within() -> None:
        async with transaction(record) as tx:
            await write(tx, "d")
            written.set()
            await asyncio.Event().wait()

    waiting = asyncio.create_task(wait_within())
    await written.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert await names(record) == set()


@pytest.mark.parametrize("ways", ["d", "s", "ds"])
async def test_connection_is_thrown_away_when_it_breaks_before_the_commit(
    record: Record, database_url: str, ways: str
) -> None:
    """A commit that PostgreSQL never got raises, and the next transaction has a connection that works."""
    other = await asyncpg.connect(database_url)

    with pytest.raises(Exception) as caught:  # noqa: PT011 - asyncpg's or SQLAlchemy's; what it means counts
        async with transaction(record) as tx:
            await write(tx, ways)
            pid = (await tx.driver()).get_server_pid()
            await other.execute("SELECT pg_terminate_backend($1, 5000)", pid)
    await other.close()

    assert is_away(caught.value)
    assert await names(record) == set()
