"""The stage of a measurement: real servers, real processes, and what they cost.

Owns the embedded PostgreSQL and Redis of a run (with the durability of a deployment), the start and the end of measured
processes, and the reading of their processor time and memory. Everything listens on the loopback interface, on ports of
its own, and is gone when the run ends. Never turn durability off here: what is measured is the promise, too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import psutil

from headrace.database.migrate import upgrade
from headrace.stack import postgres, redis
from headrace.stack.ports import free_port
from headrace.stack.program import Program
from headrace.stack.readiness import postgres_answers, redis_answers, until
from headrace.testing.stores import running_program

ROOT = Path(__file__).resolve().parent.parent
_START_SECONDS = 30.0
_LAST_WORDS = 1000
"""How many characters of a process's log are shown when a measurement fails."""
_SERVED = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}


class Stage(msgspec.Struct, frozen=True):
    """Running servers, and a directory for logs."""

    directory: Path
    database_url: str
    redis_url: str
    postgres: psutil.Process
    redis: psutil.Process

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of a measured process."""
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",  # the code beside this bench, whatever is installed
            "HEADRACE_DATABASE_URL": self.database_url,
            "HEADRACE_REDIS_URL": self.redis_url,
            "HEADRACE_LOG_LEVEL": "warning",
            "HEADRACE_APPLICATIONS": "storefront.application:application",
            **more,
        }

    @contextmanager
    def running(self, name: str, *command: str, environment: Mapping[str, str]) -> Iterator[psutil.Process]:
        """Run a Python module with arguments until the block ends, its output in `<name>.log`."""
        with self.program(module(name, *command, environment=environment)) as process:
            yield process

    @contextmanager
    def program(self, program: Program) -> Iterator[psutil.Process]:
        """Run any program until the block ends, its output in a log of its name."""
        with _running(program, self.directory / f"{program.name}.log") as process:
            yield process


def module(name: str, *command: str, environment: Mapping[str, str]) -> Program:
    """Return the program that runs a Python module of this repository with arguments."""
    return Program(name=name, command=(sys.executable, "-m", *command), environment=environment, working_directory=ROOT)


@asynccontextmanager
async def set_stage(directory: Path) -> AsyncIterator[Stage]:
    """Start the servers, bring the schema up, and take everything down at the end."""
    database = postgres.prepare(directory / "postgres", free_port())
    belt = redis.prepare(directory / "redis", free_port())
    with ExitStack() as stack:
        postmaster = stack.enter_context(_running(database.program(_SERVED), directory / "postgres.log"))
        server = stack.enter_context(_running(belt.program(_SERVED), directory / "redis.log"))
        assert await until(lambda: postgres_answers(database.url()), _START_SECONDS), "PostgreSQL did not start"
        assert await until(lambda: redis_answers(belt.url()), _START_SECONDS), "Redis did not start"
        yield Stage(directory, database.url(), belt.url(), postmaster, server)


def migrate(stage: Stage) -> None:
    """Bring the schema up; call it outside any event loop."""
    upgrade(stage.database_url, ("storefront.migrations",))


@contextmanager
def _running(program: Program, log: Path) -> Iterator[psutil.Process]:
    try:
        with running_program(program, log) as process:
            yield psutil.Process(process.pid)
    except Exception:
        print(f"--- {program.name} said last:\n{log.read_text(errors='replace')[-_LAST_WORDS:]}", file=sys.stderr)
        raise


@asynccontextmanager
async def connected(stage: Stage, url: str = "") -> AsyncIterator[asyncpg.Connection[Any]]:
    """Open a connection for looking at the record, or at another database of the server."""
    connection = await asyncpg.connect(url or stage.database_url)
    try:
        yield connection
    finally:
        await connection.close()


def tree(process: psutil.Process) -> list[psutil.Process]:
    """Return a process and all below it."""
    return [process, *process.children(recursive=True)]


def processor_seconds(process: psutil.Process) -> float:
    """Return the user and system time that a process and all below it have used so far."""
    seconds = 0.0
    for one in tree(process):
        with suppress(psutil.NoSuchProcess):  # PostgreSQL's vacuum comes and goes
            times = one.cpu_times()
            seconds += times.user + times.system
    return seconds


def resident_bytes(process: psutil.Process) -> int:
    """Return the resident memory of the process, and of those below it, that does the work: the largest one."""
    return max(one.memory_info().rss for one in tree(process))


class Meter:
    """How much processor time each of several processes uses."""

    def __init__(self, **processes: psutil.Process) -> None:
        self._processes = processes
        self._before: dict[str, float] = {}

    @property
    def runs(self) -> bool:
        """Whether it was started."""
        return bool(self._before)

    def start(self) -> None:
        """Count from now."""
        self._before = {name: processor_seconds(process) for name, process in self._processes.items()}

    def microseconds_per(self, units: int) -> dict[str, float]:
        """Return the processor time per unit of work since the start, in microseconds."""
        after = {name: processor_seconds(process) for name, process in self._processes.items()}
        return {name: 1e6 * (after[name] - self._before[name]) / units for name in after}
