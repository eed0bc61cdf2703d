"""Headrace working off a backlog of no-op jobs, with everything on that a deployment has on.

Owns the backlog on record and the processes that work it off: one relay, one Taskiq worker with one or more processes
of a hundred slots each. One job in ten belongs to a recorded trace, whose spans go to a receiver; the queue has a limit
of concurrency, too large to bind, so that every release is counted under it; each run has a lease and a timeout. Every
job, attempt and result is on record in PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from uuid import UUID

import msgspec

from bench.backlog import WARM, Drained, watch
from bench.stage import Meter, Stage, connected
from headrace.clock import new_id
from headrace.database.record import open_record
from headrace.diagnostics import echo
from headrace.jobs.insert import NewJob, insert_new_jobs
from headrace.settings import Settings

_BATCH = 1000
_TRACED = 10
"""One job in this many belongs to a recorded trace."""
_LIMIT = (
    "INSERT INTO queues (name, concurrency) VALUES ($1, 100000) ON CONFLICT (name) DO UPDATE SET concurrency = 100000"
)
# Answered from the partial indexes: watching must not cost what is watched. (Counting the finished ones by their ids
# read millions of rows through the shared buffers while the workers began; so would a sequential scan.)
_WATCHING = "SET enable_seqscan = off; SET max_parallel_workers_per_gather = 0"
_LEFT = """
    SELECT (SELECT count(*) FROM jobs WHERE state = 'pending' AND NOT parked)
         + (SELECT count(*) FROM jobs WHERE state IN ('queued', 'running'))
"""
_ANY_LEFT = """
    SELECT EXISTS (SELECT FROM jobs WHERE state = 'pending' AND NOT parked)
        OR EXISTS (SELECT FROM jobs WHERE state IN ('queued', 'running'))
"""
_SECONDS = """
    SELECT extract(epoch FROM max(finished_at) - min(finished_at)), count(*)
    FROM (SELECT finished_at FROM jobs WHERE id >= $1 AND state = 'succeeded'
          ORDER BY finished_at OFFSET $2) AS counted
"""


class Load(msgspec.Struct, frozen=True):
    """What is to be worked off, and by how many worker processes."""

    jobs: int
    workers: int = 1
    afresh: bool = True
    """Whether the table of jobs is emptied before."""


async def drain_headrace(stage: Stage, load: Load, tracing: Mapping[str, str]) -> Drained:
    """Put jobs on record, start a relay and workers, and wait for the last outcome."""
    first = await _fill(stage, load)
    environment = stage.environment(**tracing)
    with ExitStack() as stack:
        worker = stack.enter_context(stage.running("worker", *worker_command(load.workers), environment=environment))
        relay = stack.enter_context(stage.running("relay", "headrace.cli", "relay", environment=environment))
        meter = Meter(worker=worker, relay=relay, postgres=stage.postgres, redis=stage.redis)
        async with connected(stage) as connection:
            await connection.execute(_WATCHING)

            async def finished() -> int:
                """Count exactly until the clock runs; from then on it is enough to know whether any is left."""
                if not meter.runs:
                    return load.jobs - int(await connection.fetchval(_LEFT))
                return 0 if await connection.fetchval(_ANY_LEFT) else load.jobs

            watched = await watch(finished, load.jobs, meter)
            skipped = int(load.jobs * WARM)
            seconds, counted = await connection.fetchrow(_SECONDS, first, skipped)
    assert counted == load.jobs - skipped, f"{counted + skipped} of {load.jobs} jobs succeeded"
    return Drained(counted, float(seconds), watched.cost)


def worker_command(workers: int) -> tuple[str, ...]:
    """Return the arguments of Python that run Taskiq's worker with so many processes."""
    options = ("--workers", str(workers), "--max-async-tasks", "100", "--log-level", "WARNING")
    return ("taskiq", "worker", *options, "workers.tasks:broker")


async def _fill(stage: Stage, load: Load) -> UUID:
    """Put the jobs on record and return the first one's id, the smallest of all."""
    async with connected(stage) as connection:
        if load.afresh:
            await connection.execute("TRUNCATE jobs, job_traces")
        await connection.execute(_LIMIT, echo.policy.queue)
    first = new_id()
    settings = Settings(database_url=stage.database_url, redis_url=stage.redis_url)
    async with open_record(settings) as record:
        for start in range(0, load.jobs, _BATCH):
            jobs = [_job(number) for number in range(start, min(start + _BATCH, load.jobs))]
            async with record.engine.begin() as connection:
                await insert_new_jobs(connection, jobs)
    return first


def _job(number: int) -> NewJob:
    identity = new_id()
    sampled = "01" if number % _TRACED == 0 else "00"
    return NewJob(identity, echo.call(number), f"00-{identity.hex}-{identity.hex[16:]}-{sampled}")
