"""Pickup: how soon a job begins when a hundred a second are enqueued, and how soon after its worker was killed.

Owns both measurements. A job's way begins at its `created_at`, which is the beginning of the producer's transaction:
its insert and its commit are part of it. It ends at `started_at`, when a worker claims it, and then with the first line
of its task, which notes the moment itself; all clocks are the same machine's. For the crash, a job runs in one of two
workers, whose working process is killed with SIGKILL; what counts is the time from the kill to the `started_at` of
the second attempt. All settings are the default ones.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from contextlib import ExitStack
from uuid import UUID

import asyncpg
import msgspec

from bench import noted
from bench.drain import worker_command
from bench.enqueue import until_working
from bench.producer import Order, produce
from bench.receiver import receiving
from bench.stage import Stage, connected
from headrace.clock import new_id
from headrace.database.record import open_record
from headrace.diagnostics import sleep
from headrace.settings import Settings
from headrace.transaction import transaction

_APPLICATIONS = "storefront.application:application,bench.noted:application"
_WARM = 100
_POLL_SECONDS = 0.02
_PATIENCE_SECONDS = 60.0
_LONG_SECONDS = 3600.0
_CLAIMED = "SELECT id, created_at, started_at FROM jobs WHERE id >= $1 AND task = 'bench.noted' ORDER BY id OFFSET $2"
_RUNNING = """
    SELECT p.pid FROM jobs j JOIN processes p ON p.id = j.worker_id
    WHERE j.id = $1 AND j.state = 'running' AND j.attempt = $2
"""
_AGAIN = "SELECT extract(epoch FROM started_at) FROM jobs WHERE id = $1 AND state = 'running' AND attempt = 2"
_WORKERS = "SELECT count(*) FROM processes WHERE role = 'worker' AND expires_at > now()"
_CANCEL = "UPDATE jobs SET cancel_requested_at = now() WHERE id = $1"


class Picked(msgspec.Struct, frozen=True):
    """Milliseconds from `created_at` to `started_at`, and to the first line of the task."""

    claimed: list[float]
    begun: list[float]


def percentile(values: list[float], hundredth: int) -> float:
    """Return what this many hundredths of the values do not exceed."""
    return statistics.quantiles(values, n=100)[hundredth - 1]


async def measure_pickup(stage: Stage, *, jobs: int, per_second: float) -> Picked:
    """Enqueue at a steady rate and compare the moments."""
    notes = stage.directory / "noted"
    notes.touch()
    first = new_id()
    with receiving() as receiver, ExitStack() as stack:
        tracing = {**receiver.environment, "HEADRACE_APPLICATIONS": _APPLICATIONS}
        environment = stage.environment(**tracing, **{noted.VARIABLE: str(notes)})
        stack.enter_context(stage.running("worker", *worker_command(1), environment=environment))
        stack.enter_context(stage.running("relay", "headrace.cli", "relay", environment=environment))
        await until_working(stage)
        await produce(stage, Order(steady=_WARM + jobs, per_second=per_second), tracing)
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while len(lines := notes.read_text().splitlines()) < _WARM + jobs:
                await asyncio.sleep(_POLL_SECONDS)
        async with connected(stage) as connection:
            rows = await connection.fetch(_CLAIMED, first, _WARM)
    begun = {UUID(job_id): int(moment) / 1e9 for job_id, moment in (line.split() for line in lines)}
    created = {row["id"]: row["created_at"].timestamp() for row in rows}
    return Picked(
        [1e3 * (row["started_at"].timestamp() - created[row["id"]]) for row in rows],
        [1e3 * (begun[job_id] - created[job_id]) for job_id in created],
    )


async def measure_crash(stage: Stage, *, rounds: int) -> list[float]:
    """Kill the worker that runs a job, a few times; return the seconds until the job ran again."""
    with ExitStack() as stack:
        for name in ("worker 1", "worker 2"):
            stack.enter_context(stage.running(name, *worker_command(1), environment=stage.environment()))
        stack.enter_context(stage.running("relay", "headrace.cli", "relay", environment=stage.environment()))
        await until_working(stage)
        settings = Settings(database_url=stage.database_url, redis_url=stage.redis_url)
        async with open_record(settings) as record, connected(stage) as connection:
            taken = []
            for _ in range(rounds):
                await _until(connection, _WORKERS, at_least=2)
                async with transaction(record) as tx:
                    job_id = await tx.enqueue(sleep, _LONG_SECONDS)
                taken.append(await _killed(connection, job_id))
            return taken


async def _killed(connection: asyncpg.Connection[asyncpg.Record], job_id: UUID) -> float:
    """Kill the process that runs a job; return the seconds until another one does."""
    process = await _until(connection, _RUNNING, job_id, 1)
    killed_at = time.time()
    os.kill(int(process), signal.SIGKILL)
    again_at = await _until(connection, _AGAIN, job_id)
    await connection.execute(_CANCEL, job_id)
    return again_at - killed_at


async def _until(
    connection: asyncpg.Connection[asyncpg.Record], query: str, *arguments: object, at_least: float = 1
) -> float:
    """Ask until the answer is a number of at least so much."""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while (answer := await connection.fetchval(query, *arguments)) is None or answer < at_least:
            await asyncio.sleep(_POLL_SECONDS)
    return float(answer)
