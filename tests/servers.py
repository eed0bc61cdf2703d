"""Real servers for tests.

Owns the start and the end of a PostgreSQL and a Redis for the tests, from the same parts that `headrace up` is made
of, and the making of a fresh database from a template. Durability is off: nobody needs these databases after a crash.
Never mock a store: a test that needs one takes a fixture of `conftest.py`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import msgspec

from headrace.stack import postgres, readiness, redis
from headrace.stack.ports import free_port
from headrace.testing.stores import running_program

START_SECONDS = 20.0


class PostgresServer(msgspec.Struct, frozen=True):
    """A running PostgreSQL; `url_of` gives the URL of a database of it."""

    url_of: Callable[[str], str]

    async def create(self, database: str, template: str = "template1") -> str:
        """Make a database, a copy of the template, and return its URL. Nobody may be connected to the template."""
        await self._do(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.url_of(database)

    async def drop(self, database: str) -> None:
        """Remove a database, and end the connections to it."""
        await self._do(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    async def _do(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url_of("postgres"))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


class RedisServer(msgspec.Struct, frozen=True):
    """A running Redis; `url_of` gives the URL of one of its `databases` numbered databases."""

    url_of: Callable[[int], str]
    databases: int


def environment() -> dict[str, str]:
    """Return what the embedded servers need of the environment."""
    return {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}


@contextmanager
def running_postgres(directory: Path, settings: Mapping[str, str] = postgres.FOR_TESTS) -> Iterator[PostgresServer]:
    """Run a PostgreSQL in `directory`."""
    server = postgres.prepare(directory, free_port())
    with running(server.program(environment(), settings), directory.with_name("postgres.log")):
        wait_until(lambda: readiness.postgres_answers(server.url()))
        yield PostgresServer(server.url)


@contextmanager
def running_redis(directory: Path) -> Iterator[RedisServer]:
    """Run a Redis in `directory`."""
    server = redis.prepare(directory, free_port(), databases=1024)
    with running(server.program(environment()), directory.with_name("redis.log")):
        wait_until(lambda: readiness.redis_answers(server.url()))
        yield RedisServer(server.url, server.databases)


running = running_program
"""Run a program until the block ends, its output in a log."""


def wait_until(question: Callable[[], Awaitable[bool]]) -> None:
    """Fail unless the question is answered with yes in time."""
    assert asyncio.run(readiness.until(question, START_SECONDS)), "the server did not start"
