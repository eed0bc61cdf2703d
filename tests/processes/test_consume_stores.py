"""The stores die under the event road: it waits, goes on by itself, and nothing is lost, twice or out of order."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from headrace.database import migrate
from headrace.database.record import Record, open_record
from headrace.errors import UnavailableError
from headrace.settings import Settings
from headrace.stack import postgres, readiness, redis
from headrace.stack.ports import free_port
from headrace.stack.program import Program
from headrace.subscribers.contract import subscriber
from headrace.subscribers.delivery import Delivery
from tests.conftest import MIGRATIONS
from tests.lanes import Thing, consuming, eventually, publish, registered, relaying, settings_of, settled
from tests.servers import START_SECONDS, environment, running

pytestmark = pytest.mark.processes

NAME = "tests.notes"


@subscriber(NAME, Thing)
async def notes(delivery: Delivery, thing: Thing) -> None:
    """Note each thing through the session."""
    tx = await delivery.begin()
    await tx.connection.execute(text("INSERT INTO notes (note) VALUES (:note)"), {"note": thing.number})


class Server:
    """A store that a test may kill and start again, on the same port."""

    def __init__(self, program: Program, answers: Callable[[], Awaitable[bool]], log: Path) -> None:
        self._program, self._answers, self._log = program, answers, log
        self._stack = ExitStack()

    async def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = self._stack.enter_context(running(self._program, self._log))
        assert await readiness.until(self._answers, START_SECONDS)

    async def kill(self) -> None:
        """Kill it as by the kernel's hand."""
        self._process.kill()
        await asyncio.to_thread(self._process.wait)

    async def close(self) -> None:
        """End it in order."""
        await asyncio.to_thread(self._stack.close)


@pytest.fixture
async def belt(tmp_path: Path) -> AsyncIterator[tuple[Server, str, Path]]:
    """A Redis of this test's own, its URL and its directory."""
    server = redis.prepare(tmp_path / "belt", free_port())
    belt = Server(server.program(environment()), lambda: readiness.redis_answers(server.url()), tmp_path / "redis.log")
    await belt.start()
    yield belt, server.url(), tmp_path / "belt"
    await belt.close()


async def written(driver: asyncpg.Connection[asyncpg.Record]) -> list[int]:
    """Return what was noted, in its order."""
    return [int(row["note"]) for row in await driver.fetch("SELECT note FROM notes ORDER BY place")]


@pytest.mark.parametrize("disk", ["kept", "lost"])
async def test_nothing_is_lost_when_redis_is_killed(
    belt: tuple[Server, str, Path], database_url: str, disk: str
) -> None:
    """Redis dies in mid-flow and comes back, with its disk or as an empty one."""
    server, redis_url, directory = belt
    driver = await asyncpg.connect(database_url)
    await driver.execute("CREATE TABLE notes (place bigserial, note int)")
    settings = settings_of(database_url, redis_url)
    async with open_record(settings) as record:
        await registered(record, notes)
        async with relaying(settings), consuming(settings, notes):
            await publish(record, [Thing("a", number) for number in range(30)])
            await server.kill()
            if disk == "lost":
                shutil.rmtree(directory)
                directory.mkdir()
            await publish(record, [Thing("a", number) for number in range(30, 60)])
            await server.start()
            await publish(record, [Thing("a", number) for number in range(60, 90)])
            await eventually(lambda: settled(driver, NAME, events=90))

    found = await written(driver)
    await driver.close()
    assert found == list(range(90))


async def test_nothing_is_lost_when_postgresql_is_killed(tmp_path: Path, redis_url: str) -> None:
    """PostgreSQL dies in mid-flow and comes back: relay and consumer wait for it and go on."""
    cluster = postgres.prepare(tmp_path / "cluster", free_port())
    server = Server(
        cluster.program(environment()), lambda: readiness.postgres_answers(cluster.url()), tmp_path / "postgres.log"
    )
    await server.start()
    await asyncio.to_thread(migrate.upgrade, cluster.url(), MIGRATIONS)
    await _execute(cluster.url(), "CREATE TABLE notes (place bigserial, note int)")
    settings = settings_of(cluster.url(), redis_url)
    async with open_record(settings) as record:
        await registered(record, notes)
        async with relaying(settings), consuming(settings, notes):
            await publish(record, [Thing("a", number) for number in range(30)])
            await server.kill()
            await server.start()
            await eventually(lambda: _publishes(record, settings, 30))
            await publish(record, [Thing("a", number) for number in range(31, 60)])
            driver = await asyncpg.connect(cluster.url())
            await eventually(lambda: settled(driver, NAME, events=60))

    found = await written(driver)
    await driver.close()
    await server.close()
    assert found == list(range(60))


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


async def _publishes(record: Record, settings: Settings, number: int) -> bool:
    """Publish one event as soon as the record takes it; an attempt whose fate is unknown is asked after."""
    try:
        await publish(record, [Thing("a", number)])
    except (OSError, UnavailableError, DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError):
        driver = await asyncpg.connect(settings.database_url)
        known = await driver.fetchval("SELECT count(*) FROM event_log WHERE (data ->> 'number')::int = $1", number)
        await driver.close()
        return bool(known)
    return True
