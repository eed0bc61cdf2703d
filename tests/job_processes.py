"""The processes of a deployment for tests that kill them: relays, workers, consumers and the API.

Owns their start and their end: whatever a test leaves running is killed, with all that it has started. The process
that works is the one that the record names, not the one that starts it. Their output goes to files, of which the end is
shown when a wait is over time. Never sleep here: every wait is for a condition, with a bound.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from headrace.database.record import Record, open_record
from headrace.database.states import FINISHED
from headrace.jobs.call import Call
from headrace.jobs.queries import Job, job_by_id
from headrace.settings import Settings
from headrace.transaction import transaction
from tests import trial

ROOT = Path(__file__).parent.parent
PATHS = os.pathsep.join((str(ROOT), str(ROOT / "src")))
BOUND_SECONDS = 30.0


class World:
    """The processes and the stores of one test."""

    def __init__(self, settings: Settings, directory: Path, record: Record, stack: AsyncExitStack) -> None:
        self.settings, self.record = settings, record
        self._directory, self._stack = directory, stack
        self.variables: dict[str, str] = {}
        """What else the environment of the next processes holds."""
        self._driver: asyncpg.Connection[asyncpg.Record] | None = None
        self._asking = asyncio.Lock()

    def relay(self) -> subprocess.Popen[bytes]:
        """Start a relay."""
        return self._start("relay", "-m", "headrace.cli", "relay")

    def consume(self) -> subprocess.Popen[bytes]:
        """Start a consumer of all subscriptions."""
        return self._start("consume", "-m", "headrace.cli", "consume")

    def worker(self, children: int = 1) -> subprocess.Popen[bytes]:
        """Start a worker by Taskiq's command line; its children are the processes that work."""
        at_once = str(self.settings.worker_concurrency)
        arguments = ("worker", "workers.tasks:broker", "--workers", str(children), "--max-async-tasks", at_once)
        return self._start("worker", "-m", "taskiq", *arguments)

    def api(self) -> subprocess.Popen[bytes]:
        """Start an API on the port of the settings."""
        return self._start("api", "-m", "headrace.cli", "api")

    async def pids(self, role: str) -> list[int]:
        """Return the processes of a role that live by their lease, the oldest first."""
        rows = await self.rows(
            "SELECT pid FROM processes WHERE role = $1 AND expires_at > now() ORDER BY started_at, id", role
        )
        return [row[0] for row in rows]

    async def registered(self, role: str, count: int = 1) -> list[int]:
        """Wait until that many processes of a role live, and return their pids."""
        await self.eventually(lambda: self._lives(role, count))
        return await self.pids(role)

    async def leader(self) -> int:
        """Return the pid of the relay that leads."""
        leading = "SELECT p.pid FROM leases l JOIN processes p ON p.id = l.holder WHERE l.name = 'relay'"
        await self.eventually(lambda: self.any_row(leading))
        pid: int = (await self.rows(leading))[0][0]
        return pid

    async def runner_of(self, job_id: UUID) -> int:
        """Wait until a job runs, and return the pid of its worker."""
        runs = "SELECT p.pid FROM jobs j JOIN processes p ON p.id = j.worker_id WHERE j.id = $1 AND j.state = 'running'"
        await self.eventually(lambda: self.any_row(runs, job_id))
        pid: int = (await self.rows(runs, job_id))[0][0]
        return pid

    async def enqueue(self, *calls: Call) -> list[UUID]:
        """Enqueue calls in one transaction."""
        async with transaction(self.record) as tx:
            return await tx.enqueue_calls(calls)

    async def finished(self, job_id: UUID, seconds: float = BOUND_SECONDS) -> Job:
        """Wait until a job is finished, and return it."""
        states = [state.value for state in FINISHED]
        ended = "SELECT 1 FROM jobs WHERE id = $1 AND state::text = ANY($2)"
        await self.eventually(lambda: self.any_row(ended, job_id, states), seconds)
        return await job_by_id(self.record, job_id)

    async def succeeded(self, at_least: int) -> None:
        """Wait until that many jobs have succeeded."""
        await self.eventually(
            lambda: self.any_row("SELECT 1 FROM jobs WHERE state = 'succeeded' HAVING count(*) >= $1", at_least)
        )

    async def counts(self) -> dict[str, int]:
        """Return how many jobs are in each state."""
        return {row[0]: row[1] for row in await self.rows("SELECT state::text, count(*) FROM jobs GROUP BY 1")}

    async def all_finished(self, seconds: float = BOUND_SECONDS) -> dict[str, int]:
        """Wait until every job is finished, and return the counts."""
        unfinished = "SELECT 1 WHERE NOT EXISTS (SELECT FROM jobs WHERE NOT state::text = ANY($1))"
        await self.eventually(lambda: self.any_row(unfinished, [state.value for state in FINISHED]), seconds)
        return await self.counts()

    async def effects(self) -> dict[str, int]:
        """Return the keys of the effects and how often each was written."""
        return {row[0]: row[1] for row in await self.rows("SELECT key, count(*) FROM trial_effects GROUP BY 1")}

    async def said(self, word: str, processes: int) -> None:
        """Wait until that many processes have said a word in their logs."""

        async def by_all() -> bool:
            return sum(word in log.read_text() for log in self._directory.glob("*.log")) >= processes

        await self.eventually(by_all)

    async def any_row(self, query: str, *arguments: object) -> bool:
        """Tell whether a query finds anything."""
        return bool(await self.rows(query, *arguments))

    async def rows(self, query: str, *arguments: object) -> list[Any]:
        """Ask the record, over a connection that is made anew where it was lost."""
        async with self._asking:
            if self._driver is None or self._driver.is_closed():
                self._driver = await asyncpg.connect(self.settings.database_url, timeout=5)
                self._stack.callback(self._driver.terminate)
            return list(await self._driver.fetch(query, *arguments))

    async def eventually(self, condition: Callable[[], Awaitable[bool]], seconds: float = BOUND_SECONDS) -> None:
        """Wait until the condition holds; PostgreSQL may be away meanwhile."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                if await condition():
                    return
            await asyncio.sleep(0.02)
        raise AssertionError(self._what_was_said())

    def _what_was_said(self) -> str:
        return "\n".join(f"{log.name}:\n{log.read_text()[-3000:]}" for log in sorted(self._directory.glob("*.log")))

    async def _lives(self, role: str, count: int) -> bool:
        return len(await self.pids(role)) >= count

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        number = len(list(self._directory.glob(f"{name}*.log")))
        with (self._directory / f"{name}-{number}.log").open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - our own
                [sys.executable, *arguments],
                env={
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": PATHS,
                    **self.settings.as_environment(),
                    **self.variables,
                },
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._stack.callback(_make_an_end, process)
        return process


def _make_an_end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its session: what it has started, too
    process.wait(timeout=10)


@asynccontextmanager
async def open_world(settings: Settings, directory: Path) -> AsyncIterator[World]:
    """Prepare the stores for the application `trial`; nothing runs yet."""
    await trial.prepare(settings.database_url)
    async with processes(settings, directory) as world:
        yield world


@asynccontextmanager
async def processes(settings: Settings, directory: Path) -> AsyncIterator[World]:
    """End every process of a test after the block."""
    async with open_record(settings) as record, AsyncExitStack() as stack:
        yield World(settings, directory, record, stack)


def settings_of(database_url: str, redis_url: str, *, lease_seconds: float = 1.0) -> Settings:
    """Return the settings of a test's processes."""
    return Settings(
        database_url=database_url,
        redis_url=redis_url,
        applications="tests.trial:application",
        lease_seconds=lease_seconds,
        worker_concurrency=20,
        shutdown_seconds=3.0,
    )
