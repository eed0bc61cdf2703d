"""Stores of a test's own, which it may kill, start again, and give another past.

Owns their start and their end, and what they have on disk: it can be taken away, copied while they run, and replaced by
a copy. Their output goes to files beside their directories.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from headrace.database import migrate
from headrace.stack import postgres, readiness, redis
from headrace.stack.ports import free_port
from headrace.stack.program import Program
from tests.conftest import MIGRATIONS
from tests.servers import environment

START_SECONDS = 60.0
"""A Redis that reads a long log again takes its time on a busy machine."""

_COPIES = itertools.count(1)


class Store:
    """A server that can be killed and started again on the same data."""

    def __init__(self, program: Program, url: str, answers: Callable[[str], Awaitable[bool]], directory: Path) -> None:
        """Keep the data in `directory`, and the log beside it."""
        self.url = url
        self._program, self._answers = program, answers
        self._directory, self._log = directory, directory.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it, and return when it answers."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603, ASYNC220 - our own binaries, and a moment
                self._program.argv(), env=dict(self._program.environment), cwd="/", stdout=output, stderr=output
            )
        assert await readiness.until(lambda: self._answers(self.url), START_SECONDS), self._log.read_text()

    def end(self, with_signal: signal.Signals) -> None:
        """Send it a signal and wait until it is gone."""
        assert self._process is not None
        self._process.send_signal(with_signal)
        self._process.wait(timeout=20)
        self._process = None

    def signal(self, sent: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(sent)

    def lose(self) -> None:
        """Take away all that it has on disk; it is down."""
        shutil.rmtree(self._directory)
        self._directory.mkdir()

    def copy(self) -> Path:
        """Copy what it has on disk while it runs, and return where the copy is."""
        copy = self._directory.with_name(f"{self._directory.name}-{next(_COPIES)}")
        subprocess.run(["cp", "-r", str(self._directory), str(copy)], check=True)  # noqa: S603, S607 - rmtree's likes stop at files that vanish
        return copy

    def become(self, copy: Path) -> None:
        """Take over what a copy has; it is down."""
        shutil.rmtree(self._directory)
        copy.rename(self._directory)

    def close(self) -> None:
        """Make an end of it."""
        if self._process is not None:
            self.end(signal.SIGQUIT if self._program.name == "postgres" else signal.SIGKILL)


@asynccontextmanager
async def own_redis(directory: Path) -> AsyncIterator[Store]:
    """Run a Redis that a test may kill."""
    server = redis.prepare(directory / "redis", free_port())
    store = Store(server.program(environment()), server.url(), readiness.redis_answers, directory / "redis")
    await store.start()
    try:
        yield store
    finally:
        store.close()


@asynccontextmanager
async def own_postgres(directory: Path) -> AsyncIterator[Store]:
    """Run a PostgreSQL that a test may kill, with every migration done."""
    server = postgres.prepare(directory / "postgres", free_port())
    program = server.program(environment())
    store = Store(program, server.url(), readiness.postgres_answers, directory / "postgres")
    await store.start()
    try:
        await asyncio.to_thread(migrate.upgrade, store.url, MIGRATIONS)
        yield store
    finally:
        store.close()
