"""Flat: what Redis holds while a million events and some jobs pass through it.

Owns the measurement. Events are published in waves, with a relay and a subscription at work; when a wave is handled and
trimmed, Redis is asked for its used memory. Jobs follow, with a worker. What stays is a node or two of each stream, so
that the last figure is that of the first, however much has passed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing, asynccontextmanager

import asyncpg
import msgspec
from redis.asyncio import Redis

from bench import grouped
from bench.drain import worker_command
from bench.stage import Stage, connected
from headrace.database.record import Record, open_record
from headrace.diagnostics import echo
from headrace.events.log import new_event
from headrace.settings import Settings
from headrace.subscribers.checkpoints import register
from headrace.transaction import transaction

WAVES = 10
_APPLICATIONS = "storefront.application:application,bench.grouped:application"
_BATCH = 500
_POLL_SECONDS = 0.1
_PATIENCE_SECONDS = 600.0
_TRIMMED_SECONDS = 2.5
"""In this time the relay has trimmed what was acknowledged."""
_LEFT = """
    SELECT EXISTS (SELECT FROM outbox) OR EXISTS (SELECT FROM jobs WHERE state <> 'succeeded')
        OR EXISTS (SELECT FROM checkpoints c JOIN lanes l ON l.lane = c.lane WHERE c.position < l.head)
"""


class Flat(msgspec.Struct, frozen=True):
    """The memory that Redis uses, in MB (of 1,000,000 bytes): after each wave of events and of jobs, and at most."""

    events: int
    jobs: int
    after: list[float]
    peak: float

    @property
    def growth(self) -> float:
        """How much more was held after a wave, at most, than after the first, in MB."""
        return max(self.after) - self.after[0]


async def measure_flat(stage: Stage, *, events: int, jobs: int) -> Flat:
    """Let them pass and return what Redis held."""
    environment = stage.environment(HEADRACE_APPLICATIONS=_APPLICATIONS, HEADRACE_SUBSCRIPTIONS=grouped.first.name)
    settings = Settings(database_url=stage.database_url, redis_url=stage.redis_url)
    after: list[float] = []
    with ExitStack() as stack:
        async with (
            open_record(settings) as record,
            connected(stage) as connection,
            aclosing(Redis.from_url(stage.redis_url, protocol=2)) as redis,
        ):
            await register(record.engine, [grouped.first])
            for process in ("relay", "consume"):
                stack.enter_context(stage.running(process, "headrace.cli", process, environment=environment))
            stack.enter_context(stage.running("worker", *worker_command(1), environment=environment))
            async with _watching(redis) as peaks:
                for wave in range(WAVES):
                    await _publish(record, wave * events // WAVES, (wave + 1) * events // WAVES)
                    after.append(await _at_rest(connection, redis))
                for _ in range(2):
                    await _enqueue(record, jobs // 2)
                    after.append(await _at_rest(connection, redis))
            return Flat(events, jobs, after, max(peaks))


@asynccontextmanager
async def _watching(redis: Redis) -> AsyncIterator[list[float]]:
    """Sample the memory of Redis for the block."""
    peaks: list[float] = []

    async def watch() -> None:
        while True:
            peaks.append(await _used(redis))
            await asyncio.sleep(_POLL_SECONDS)

    watching = asyncio.create_task(watch())
    try:
        yield peaks
    finally:
        watching.cancel()


async def _at_rest(connection: asyncpg.Connection[asyncpg.Record], redis: Redis) -> float:
    """Wait until all is handled and trimmed, and return what Redis holds."""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while await connection.fetchval(_LEFT):
            await asyncio.sleep(_POLL_SECONDS)
    await asyncio.sleep(_TRIMMED_SECONDS)
    return await _used(redis)


async def _used(redis: Redis) -> float:
    return float((await redis.info("memory"))["used_memory"]) / 1e6


async def _publish(record: Record, first: int, last: int) -> None:
    for start in range(first, last, _BATCH):
        ticks = [grouped.Ticked(number, number % grouped.KEYS) for number in range(start, min(start + _BATCH, last))]
        async with transaction(record) as tx:
            await tx.publish_events([new_event(tick) for tick in ticks])


async def _enqueue(record: Record, jobs: int) -> None:
    for start in range(0, jobs, _BATCH):
        async with transaction(record) as tx:
            await tx.enqueue_calls([echo.call(number) for number in range(start, min(start + _BATCH, jobs))])
