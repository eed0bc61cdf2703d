"""What every test may ask for: real servers, one of each kind for the whole run, and a fresh database in each.

`TEST_DATABASE_URL` and `TEST_REDIS_URL` name servers to use instead of the embedded ones; the user of the first must
be allowed to create databases, and the second loses what its databases hold. Where tests run several at a time, each
names as many servers, with commas between.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit, urlunsplit

import pytest
import redis
import structlog

from headrace.database import migrate
from tests.servers import PostgresServer, RedisServer, running_postgres, running_redis

MIGRATIONS = ("storefront.migrations",)


def with_path(url: str, path: str) -> str:
    """Return the URL of another database on the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{path}"))


def _given(variable: str) -> str | None:
    """Return the URL of the server that this process of pytest is to use, None where it starts its own."""
    urls = os.environ.get(variable)
    place = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return urls.split(",")[place] if urls else None


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """Log as before, whatever a command that ran within the test has set up."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A PostgreSQL for the whole run."""
    if given := _given("TEST_DATABASE_URL"):
        yield PostgresServer(lambda database: with_path(given, database))
        return
    with running_postgres(tmp_path_factory.mktemp("postgres") / "cluster") as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for the whole run."""
    if given := _given("TEST_REDIS_URL"):
        yield RedisServer(lambda number: with_path(given, str(number)), databases=16)
        return
    with running_redis(tmp_path_factory.mktemp("redis") / "belt") as server:
        yield server


@pytest.fixture(scope="session")
def template_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of a database with every migration done, from which the tests' own are copied."""
    name = f"template_{secrets.token_hex(4)}"
    migrate.upgrade(asyncio.run(postgres_server.create(name)), MIGRATIONS)
    yield name
    asyncio.run(postgres_server.drop(name))


@pytest.fixture
async def database_url(postgres_server: PostgresServer, template_database: str) -> AsyncIterator[str]:
    """The URL of a fresh database with every migration done, for this test alone."""
    name = f"test_{secrets.token_hex(4)}"
    yield await postgres_server.create(name, template_database)
    await postgres_server.drop(name)


@pytest.fixture(scope="session")
def redis_numbers(redis_server: RedisServer) -> Iterator[int]:
    """The numbers of the Redis databases for the tests, round and round."""
    return itertools.cycle(range(1, redis_server.databases))


@pytest.fixture
def redis_url(redis_server: RedisServer, redis_numbers: Iterator[int]) -> str:
    """The URL of an empty Redis database, for this test alone."""
    url = redis_server.url_of(next(redis_numbers))
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url
