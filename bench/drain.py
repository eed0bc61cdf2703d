"""Draining a backlog of no-op jobs with one worker process: Headrace beside Taskiq's own Redis broker.

Owns both measurements. Each begins with every job waiting (on record, or in the stream) and counts from the first
result to the last, so that the start of a process is not part of it. Headrace records every job, attempt and result in
PostgreSQL; Taskiq keeps results in Redis and records nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, aclosing

import msgspec
from redis.asyncio import Redis
from taskiq import TaskiqMessage

from bench import peer
from bench.stage import Meter, Stage, connected
from headrace.clock import new_id
from headrace.database.record import open_record
from headrace.diagnostics import echo
from headrace.settings import Settings
from headrace.transaction import transaction

_BATCH = 1000
_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 60.0
_WORKER = ("taskiq", "worker", "--workers", "1", "--max-async-tasks", "100", "--log-level", "WARNING")

# Answered from the partial indexes: watching must not cost what is watched.
_ANY_LEFT = """
    SELECT EXISTS (SELECT FROM jobs WHERE state = 'pending')
        OR EXISTS (SELECT FROM jobs WHERE state IN ('queued', 'running'))
"""
_FINISHED = """
    SELECT count(*), extract(epoch FROM max(finished_at) - min(finished_at)) FROM jobs WHERE state = 'succeeded'
"""


class Drained(msgspec.Struct, frozen=True):
    """How fast a backlog was worked off; `cost` is processor time per job in microseconds, by process."""

    jobs: int
    seconds: float
    cost: dict[str, float]

    @property
    def rate(self) -> float:
        """Jobs per second."""
        return self.jobs / self.seconds


async def drain_headrace(stage: Stage, jobs: int) -> Drained:
    """Put jobs on record, start a relay and a worker, and wait for the last outcome."""
    environment = stage.environment()
    async with connected(stage) as connection:
        await connection.execute("TRUNCATE jobs")
        await _enqueue(stage, jobs)

        async def any_left() -> bool:
            return bool(await connection.fetchval(_ANY_LEFT))

        with ExitStack() as stack:
            worker = stack.enter_context(
                stage.running("worker", *_WORKER, "workers.tasks:broker", environment=environment)
            )
            relay = stack.enter_context(stage.running("relay", "headrace.cli", "relay", environment=environment))
            meter = Meter(worker=worker, relay=relay, postgres=stage.postgres, redis=stage.redis)

            async def first() -> int:
                return int(await connection.fetchval("SELECT count(*) FROM jobs WHERE state = 'succeeded'"))

            async with asyncio.timeout(_PATIENCE_SECONDS):
                while (early := await first()) == 0:
                    await asyncio.sleep(_POLL_SECONDS)
                meter.start()
                while await any_left():
                    await asyncio.sleep(_POLL_SECONDS)
            cost = meter.microseconds_per(jobs - early)
        finished, seconds = await connection.fetchrow(_FINISHED)
        assert finished == jobs, f"{finished} of {jobs} jobs succeeded"
        return Drained(jobs, float(seconds), cost)


async def drain_taskiq(stage: Stage, jobs: int) -> Drained:
    """Put messages on the stream of Taskiq's broker, start its worker, and wait for the last result."""
    url = stage.redis_url.rpartition("/")[0] + "/1"
    async with aclosing(Redis.from_url(url)) as redis:
        await redis.flushdb()
        await _kick(redis, jobs)
        environment = stage.environment(**{peer.VARIABLE: url})
        with stage.running("peer", *_WORKER, "--no-parse", "bench.peer:broker", environment=environment) as worker:
            meter = Meter(worker=worker, redis=stage.redis)
            drained = await _drained(
                redis.dbsize, 1, jobs, meter=meter
            )  # one key is the stream, the others are results
        await redis.flushdb()
    return drained


async def _drained(finished: Callable[[], Awaitable[int]], before: int, jobs: int, *, meter: Meter) -> Drained:
    """Watch the number of results grow from the first to the last."""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while (first := await finished() - before) <= 0:
            await asyncio.sleep(_POLL_SECONDS)
        began_at = time.monotonic()
        meter.start()
        while await finished() - before < jobs:
            await asyncio.sleep(_POLL_SECONDS)
    counted = jobs - first
    return Drained(counted, time.monotonic() - began_at, meter.microseconds_per(counted))


async def _enqueue(stage: Stage, jobs: int) -> None:
    settings = Settings(database_url=stage.database_url, redis_url=stage.redis_url)
    async with open_record(settings) as record:
        for first in range(0, jobs, _BATCH):
            async with transaction(record) as tx:
                await tx.enqueue_calls([echo.call(number) for number in range(first, min(first + _BATCH, jobs))])


async def _kick(redis: Redis, jobs: int) -> None:
    for first in range(0, jobs, _BATCH):
        async with redis.pipeline(transaction=False) as pipeline:
            for number in range(first, min(first + _BATCH, jobs)):
                message = TaskiqMessage(
                    task_id=str(new_id()), task_name=peer.echo.task_name, labels={}, args=[number], kwargs={}
                )
                pipeline.xadd(peer.STREAM, {b"data": peer.broker.formatter.dumps(message).message})
            await pipeline.execute()
