"""A process is on record for as long as it lives, and for a lease longer when it dies."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from headrace.presence import Identity, Presence
from tests.road import eventually

LEASE = 0.5


@pytest.fixture
async def driver(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection to ask with."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@asynccontextmanager
async def present(database_url: str) -> AsyncIterator[Presence]:
    """Be present for the block."""
    presence = Presence(database_url, Identity("worker", LEASE, queues=["a"], tasks=["t"], slots=7))
    await presence.start()
    try:
        yield presence
    finally:
        await presence.stop()


async def test_process_is_on_record_while_it_lives(
    database_url: str, driver: asyncpg.Connection[asyncpg.Record]
) -> None:
    """Registered before `start` returns, with what it serves; gone when it has stopped."""
    async with present(database_url) as presence:
        row = await driver.fetchrow("SELECT * FROM processes WHERE id = $1", presence.identity.id)
        assert row is not None
        assert (row["role"], row["pid"], row["queues"], row["tasks"], row["slots"]) == (
            "worker", os.getpid(), ["a"], ["t"], 7,
        )  # fmt: skip

    assert await driver.fetchval("SELECT count(*) FROM processes") == 0


async def test_lease_is_kept_while_the_event_loop_is_blocked(
    database_url: str, driver: asyncpg.Connection[asyncpg.Record]
) -> None:
    """The thread renews on its own: a task that blocks the loop is not taken for dead."""
    async with present(database_url) as presence:
        time.sleep(3 * LEASE)  # noqa: ASYNC251 - the fault that is tried here

        query = "SELECT expires_at > now() FROM processes WHERE id = $1"
        assert await driver.fetchval(query, presence.identity.id) is True


async def test_lease_is_taken_again_when_it_was_lost(
    database_url: str, driver: asyncpg.Connection[asyncpg.Record]
) -> None:
    """A process that was cut off, or whose row was pruned, comes back by itself."""
    cut = """
        SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
    """
    async with present(database_url):
        await driver.fetchval(cut)
        await driver.execute("DELETE FROM processes")

        async def back() -> bool:
            return bool(await driver.fetchval("SELECT count(*) FROM processes WHERE expires_at > now()"))

        await eventually(back, 5)


async def test_retired_process_offers_no_slots(database_url: str, driver: asyncpg.Connection[asyncpg.Record]) -> None:
    """A stopping worker keeps its lease and asks for nothing more."""
    async with present(database_url) as presence:
        presence.retire()

        async def retired() -> bool:
            return bool(await driver.fetchval("SELECT slots FROM processes WHERE expires_at > now()") == 0)

        await eventually(retired, 5)


async def test_start_and_stop_end_in_time_when_postgresql_is_away() -> None:
    """A process may start before its PostgreSQL does."""
    begin = time.monotonic()

    async with present("postgresql://postgres@127.0.0.1:1/none"):
        pass

    assert time.monotonic() - begin < 5 * LEASE
