"""The servers that tests run on, and a fresh database for each test.

Owns the start and the end of an embedded PostgreSQL and an embedded Redis, for whoever names no servers of his own, and
the template databases: one per set of migrations, migrated once, copied for each test, so that no test sees what
another one left, and nothing needs to be rolled back or truncated. Durability is off: nobody needs these databases
after a crash. Never point it at a database that is in use: it makes databases beside it, and empties the Redis
database that it is given.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from headrace.database import migrate
from headrace.errors import ConfigurationError
from headrace.stack import postgres, readiness, redis
from headrace.stack.ports import free_port
from headrace.stack.program import Program
from headrace.testing.virtual import install, search_path

T = TypeVar("T")

_START_SECONDS: Final = 30.0


class Stores:
    """Servers for tests. Make it with `open_stores`."""

    def __init__(self, directory: Path, stack: ExitStack, *, database_url: str | None, redis_url: str | None) -> None:
        self._directory = directory
        self._stack = stack
        self._database_url = database_url
        self._redis_url = redis_url
        self._templates: dict[tuple[tuple[str, ...], bool], str] = {}

    @property
    def redis_url(self) -> str:
        """The Redis, started at the first question."""
        if self._redis_url is None:
            server = redis.prepare(self._directory / "redis", free_port())
            with _told("headrace_redis_url"):
                program = server.program(_environment())
            self._run(program, lambda: readiness.redis_answers(server.url()))
            self._redis_url = server.url()
        return self._redis_url

    @asynccontextmanager
    async def database(self, migrations: Sequence[str], *, virtual_clock: bool = False) -> AsyncIterator[str]:
        """Make a database with these packages' migrations for the block; yield its URL."""
        template = self._template(tuple(migrations), virtual_clock=virtual_clock)
        name = f"headrace_test_{secrets.token_hex(6)}"
        await _do(self._server_url, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        try:
            if virtual_clock:  # a copy of a database does not take over the settings of connections to it
                await _do(self._server_url, search_path(name))
            yield _with_database(self._server_url, name)
        finally:
            await _do(self._server_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    @property
    def _server_url(self) -> str:
        if self._database_url is None:
            with _told("headrace_database_url"):
                server = postgres.prepare(self._directory / "postgres", free_port())
            program = server.program(_environment(), postgres.FOR_TESTS)
            self._run(program, lambda: readiness.postgres_answers(server.url()))
            self._database_url = server.url()
        return self._database_url

    def _template(self, migrations: tuple[str, ...], *, virtual_clock: bool) -> str:
        wanted = (migrations, virtual_clock)
        if wanted not in self._templates:
            server, name = self._server_url, f"headrace_template_{secrets.token_hex(6)}"
            url = _with_database(server, name)
            _apart(_do(server, f'CREATE DATABASE "{name}"'))
            self._stack.callback(lambda: _apart(_do(server, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')))
            with ThreadPoolExecutor(max_workers=1) as thread:
                thread.submit(migrate.upgrade, url, migrations).result()
            if virtual_clock:
                _apart(install(url))
            self._templates[wanted] = name
        return self._templates[wanted]

    def _run(self, program: Program, answers: Callable[[], Awaitable[bool]]) -> None:
        log = self._directory / f"{program.name}.log"
        # the server dies with the thread that starts it: this one, which is the tests' own
        self._stack.enter_context(running_program(program, log))
        if not _apart(readiness.until(answers, _START_SECONDS)):
            message = f"the embedded {program.name} did not start: {log.read_text()[-2000:]}"
            raise ConfigurationError(message)


@contextmanager
def open_stores(*, database_url: str | None = None, redis_url: str | None = None) -> Iterator[Stores]:
    """Hand out servers for tests for as long as the block runs; what is not given is embedded, started when needed.

    Args:
        database_url: a PostgreSQL whose user may create databases.
        redis_url: a Redis database that holds nothing of value.

    Raises:
        ConfigurationError: there is no embedded server on this machine, or it does not start.

    """
    with tempfile.TemporaryDirectory(prefix="headrace-test-") as directory, ExitStack() as stack:
        yield Stores(Path(directory), stack, database_url=database_url, redis_url=redis_url)


@contextmanager
def _told(fixture: str) -> Iterator[None]:
    """Say what a test's author can do where there is no embedded server."""
    try:
        yield
    except ConfigurationError as error:
        message = f"{error}; or, for tests, a fixture {fixture} that names a server of your own"
        raise ConfigurationError(message) from error


@contextmanager
def running_program(program: Program, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block ends, its output in `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - our own binaries, with arguments of ours
            program.argv(),
            env=dict(program.environment),
            cwd=program.working_directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(program.stop_signal)
        process.wait(timeout=program.stop_seconds)


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}


def _with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


async def _do(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _apart(work: Coroutine[Any, Any, T]) -> T:
    """Await something from a thread that may have an event loop under way, or none."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, work).result()
