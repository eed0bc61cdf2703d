"""Migrations: run once however often they are asked for, and refused with the mend where they do not meet."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from zlib import crc32

import asyncpg
import msgspec
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from headrace.clock import new_id
from headrace.database.migrate import upgrade
from headrace.database.record import sqlalchemy_url
from headrace.database.schema import PACKAGE, versions_of
from headrace.errors import ConfigurationError
from headrace.events.model import slot_of
from tests.servers import PostgresServer

_AS_BEFORE = """
    WITH logged AS (
        INSERT INTO event_log (id, type, version, source, source_id, subject, lane, time, data, trace_id, traceparent)
        VALUES ($1, 't', 1, '/t', CAST($1::uuid AS text), $2, $3, now(), '{}', '', ''))
    INSERT INTO outbox (lane, event_id) VALUES ($3, $1)
"""


@pytest.fixture
async def empty_database_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """The URL of a database without any table."""
    name = f"empty_{secrets.token_hex(4)}"
    yield await postgres_server.create(name)
    await postgres_server.drop(name)


async def test_upgrade_does_nothing_when_the_schema_fits(empty_database_url: str) -> None:
    """Three at once, and one more: the first migrates, the others find it done."""
    await asyncio.gather(*(asyncio.to_thread(upgrade, empty_database_url) for _ in range(3)))

    await asyncio.to_thread(upgrade, empty_database_url)


async def test_upgrade_is_refused_when_the_database_has_migrations_of_others(empty_database_url: str) -> None:
    """A database that an application has tables in is not touched by a Headrace that does not load it."""
    await asyncio.to_thread(upgrade, empty_database_url, ["storefront.migrations"])

    with pytest.raises(ConfigurationError, match="HEADRACE_APPLICATIONS"):
        await asyncio.to_thread(upgrade, empty_database_url)


def test_upgrade_is_refused_when_postgresql_does_not_answer() -> None:
    """One line says which setting to look at."""
    with pytest.raises(ConfigurationError, match="HEADRACE_DATABASE_URL"):
        upgrade("postgresql://nobody@127.0.0.1:1/nothing")


def _to(connection: Connection, revision: str) -> None:
    """Bring the database to a revision, as an earlier Headrace left it."""
    config = Config()
    versions = versions_of(PACKAGE)
    config.set_main_option("script_location", str(versions.parent))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", str(versions))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


async def _older(database_url: str, revision: str) -> None:
    engine = create_async_engine(sqlalchemy_url(database_url))
    async with engine.connect() as connection:
        await connection.run_sync(_to, revision)
        await connection.commit()
    await engine.dispose()


async def test_jobs_on_record_go_on_when_an_earlier_database_is_upgraded(empty_database_url: str) -> None:
    """What waited still waits and moves as ever; it is found by its trace; what has finished stays."""
    await _older(empty_database_url, "h0001")
    driver = await asyncpg.connect(empty_database_url)
    waiting, finished, trace = new_id(), new_id(), "0af7651916cd43dd8448eb211c80319c"
    for identity, state in ((waiting, "pending"), (finished, "succeeded")):
        await driver.execute(
            "INSERT INTO jobs (id, task, args, queue, state, max_attempts, trace_id, traceparent) "
            "VALUES ($1, 't', '{}', 'q', CAST($2::text AS job_state), 1, $3, '')",
            identity,
            state,
            trace,
        )

    await asyncio.to_thread(upgrade, empty_database_url)

    await driver.execute("UPDATE jobs SET state = 'queued' WHERE state = 'pending'")
    moves = await driver.fetch("SELECT job_id, state::text FROM job_transitions")
    traced = await driver.fetch("SELECT job_id FROM job_traces WHERE trace_id = $1::text::uuid", trace)
    await driver.close()
    assert {tuple(move) for move in moves} == {(waiting, "pending"), (waiting, "queued")}
    assert {row["job_id"] for row in traced} == {waiting, finished}


async def test_events_keep_their_lanes_when_an_earlier_database_is_upgraded(empty_database_url: str) -> None:
    """What had a lane and no position yet gets the slot of its key, which is on the same lane and stays its key's."""
    await _older(empty_database_url, "h0002")
    driver = await asyncpg.connect(empty_database_url)
    keys = {new_id(): subject for subject in ("lamp-7", "lamp-8", "", None)}
    for identity, subject in keys.items():
        await driver.execute(_AS_BEFORE, identity, subject, crc32((subject or str(identity)).encode()) % 4)
    before = dict(await driver.fetch("SELECT event_id, lane FROM outbox"))

    await asyncio.to_thread(upgrade, empty_database_url)

    after = dict(await driver.fetch("SELECT event_id, slot FROM outbox"))
    await driver.close()
    assert after == {identity: slot_of(subject or str(identity)) for identity, subject in keys.items()}
    assert {identity: slot % 4 for identity, slot in after.items()} == before


async def test_dead_deliveries_have_their_groups_when_an_earlier_database_is_upgraded(empty_database_url: str) -> None:
    """What died before fingerprints were kept is grouped by its type and its message without ids."""
    await _older(empty_database_url, "h0002")
    driver = await asyncpg.connect(empty_database_url)
    for number, message in enumerate(("order 17 is gone", "order 18 is gone", "nobody is there")):
        job_id, args = new_id(), {"subscription": "shop.ship", "event_id": str(new_id())}
        await driver.execute(
            "INSERT INTO jobs (id, task, args, queue, state, max_attempts, trace_id, traceparent, finished_at) "
            "VALUES ($1, 'headrace.deliver', $2, 'headrace', 'dead', 1, $3, '', now())",
            job_id,
            msgspec.json.encode(args).decode(),
            f"{number:032x}",
        )
        await driver.execute(
            "INSERT INTO job_attempts (job_id, attempt, fence, outcome, type, message, traceback, trace_id) "
            "VALUES ($1, 1, 0, 'failed', 'ValueError', $2, '', '')",
            job_id,
            message,
        )

    await asyncio.to_thread(upgrade, empty_database_url)

    groups = await driver.fetch(
        "SELECT subscription, release, count(*) FROM dead_deliveries GROUP BY 1, 2, fingerprint ORDER BY 3"
    )
    await driver.close()
    assert [tuple(group) for group in groups] == [("shop.ship", "", 1), ("shop.ship", "", 2)]
