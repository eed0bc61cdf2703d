"""The plans of the statements that run all day long, as PostgreSQL makes them with millions of finished jobs.

Owns the listening: while a few jobs of each kind pass (at once, delayed, failing, with a key, expiring), PostgreSQL
logs every statement that a producer, the relay, a worker and the clock's upkeep send, and each one that touches jobs is
then explained, for any parameters. So no list of statements is kept here, and none is forgotten. Never read a plan off
a small table: PostgreSQL would rightly read all of it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack, asynccontextmanager
from textwrap import dedent

import msgspec

from bench.drain import worker_command
from bench.enqueue import until_working
from bench.stage import Stage, connected
from headrace.clock import seconds_from_now
from headrace.cron.upkeep import forget, prune
from headrace.database.record import Record, open_record
from headrace.diagnostics import echo, fail
from headrace.jobs.call import Call, Options
from headrace.settings import Settings
from headrace.stack.postgres import binaries
from headrace.transaction import transaction

WHOLE = "Seq Scan on jobs"
_POLL_SECONDS = 0.1
_PATIENCE_SECONDS = 60.0
_REST_SECONDS = 1.5
"""Longer than everything that the relay does without being asked."""
_ENTRY = re.compile(r"^\S+ \S+ \S+ \[\d+\] (?P<level>[A-Z]+):  (?P<words>.*)$")
_STATEMENT = re.compile(r"^(?:execute [^:]*|statement): (?P<sql>.*)$", re.DOTALL)
_JOBS = re.compile(r"\b(?:FROM|JOIN|UPDATE|INTO)\s+jobs\b")
_ANY_LEFT = """
    SELECT EXISTS (SELECT FROM jobs WHERE state IN ('scheduled', 'retrying') AND waits_for = 0)
        OR EXISTS (SELECT FROM jobs WHERE state = 'pending' AND NOT parked)
        OR EXISTS (SELECT FROM jobs WHERE state = 'pending' AND parked)
        OR EXISTS (SELECT FROM jobs WHERE state IN ('queued', 'running'))
"""


class Planned(msgspec.Struct, frozen=True):
    """A statement and its plan."""

    statement: str
    plan: str

    @property
    def reads_all(self) -> bool:
        """Whether it reads the table of jobs as a whole."""
        return WHOLE in self.plan


async def plans_of(stage: Stage) -> list[Planned]:
    """Let jobs pass, and explain every statement on jobs that was sent meanwhile."""
    log = stage.directory / "postgres.log"
    already = log.stat().st_size
    async with _logged(stage):
        await _exercise(stage)
    sent = statements_in(log.read_text()[already:].splitlines())
    return [Planned(statement, await _explained(stage, statement)) for statement in sent]


def statements_in(lines: Iterable[str]) -> list[str]:
    """Return the statements on jobs that a log of PostgreSQL holds, each once, in their order."""
    entries: list[list[str]] = []
    for line in lines:
        if found := _ENTRY.match(line):
            entries.append([found["words"]] if found["level"] == "LOG" else [])
        elif entries and entries[-1]:
            entries[-1].append(line.removeprefix("\t"))
    said = (_STATEMENT.match("\n".join(entry)) for entry in entries)
    statements = (dedent(one["sql"]).strip() for one in said if one)
    return list(dict.fromkeys(statement for statement in statements if _JOBS.search(statement)))


@asynccontextmanager
async def _logged(stage: Stage) -> AsyncIterator[None]:
    """Have the server log what is sent to this database by connections made from now on."""
    name = stage.database_url.rpartition("/")[2]
    async with connected(stage) as connection:
        await connection.execute(f"ALTER DATABASE {name} SET log_statement = 'all'")
        yield
        await connection.execute(f"ALTER DATABASE {name} RESET log_statement")


async def _exercise(stage: Stage) -> None:
    settings = Settings(database_url=stage.database_url, redis_url=stage.redis_url)
    with ExitStack() as stack:
        stack.enter_context(stage.running("relay", "headrace.cli", "relay", environment=stage.environment()))
        stack.enter_context(stage.running("worker", *worker_command(1), environment=stage.environment()))
        await until_working(stage)
        async with open_record(settings) as record:
            await _enqueue(record)
            async with connected(stage) as connection, asyncio.timeout(_PATIENCE_SECONDS):
                await connection.execute("SET log_statement = 'none'")  # what the bench asks is nobody's plan
                await asyncio.sleep(_REST_SECONDS)
                while await connection.fetchval(_ANY_LEFT):
                    await asyncio.sleep(_POLL_SECONDS)
            await prune(record, settings)
            await forget(record)


async def _enqueue(record: Record) -> None:
    """Enqueue jobs of each kind that takes a way of its own."""
    kinds = (
        Options(),
        Options(delay_seconds=0.2),
        Options(expires_at=seconds_from_now(30)),
        Options(concurrency_key="customer-1"),
        Options(unique_key="order-1"),
    )
    calls: list[Call] = [echo.options(options).call(number) for options in kinds for number in range(5)]
    for call in (*calls, fail.call(1)):
        async with transaction(record) as tx:
            await tx.enqueue_calls([call])


async def _explained(stage: Stage, statement: str) -> str:
    """Explain by psql: a driver that prepares statements would ask for the parameters."""
    process = await asyncio.create_subprocess_exec(
        str(binaries() / "psql"),
        *("-XAtq", "-v", "ON_ERROR_STOP=1", "-d", stage.database_url),
        *("-c", f"EXPLAIN (GENERIC_PLAN, COSTS OFF) {statement}"),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, f"no plan of: {statement}"
    return said.decode().rstrip()
