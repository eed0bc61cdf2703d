"""A fleet in one process: leaders and workers on connections of their own, without a task being run.

Owns loops that do to the record what processes do, as fast as they can: several dispatchers at once, as if a leader
that lost its lease still led, and workers that claim their part of what is on the belt, hold it for a moment and settle
it. What they did is read from the record afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from random import Random
from uuid import UUID

import asyncpg

from headrace.clock import new_id
from headrace.database.states import JobState
from headrace.jobs.claim import claim, return_queued
from headrace.jobs.model import Claim, Outcome
from headrace.jobs.settle import settle
from headrace.loops import Stop
from headrace.relay.dispatch import Dispatcher
from tests.intervals import Interval
from tests.road import Road

_PROCESS = """
    INSERT INTO processes (id, role, host, pid, queues, tasks, slots, expires_at)
    VALUES ($1, 'worker', 'here', 1, $2, $3, $4, now() + interval '10 minutes')
"""
_ON_BELT = """
    SELECT id, fence, attempt + 1, max_attempts, task, queue, '{}', traceparent, created_at
    FROM jobs WHERE state = 'queued' AND abs(hashtext(id::text)) % $1 = $2 ORDER BY random() LIMIT 3
"""
_HELD = """
    SELECT j.concurrency_key, t.at, coalesce(t.until, clock_timestamp() + interval '1 hour'), t.state
    FROM job_transitions t JOIN jobs j ON j.id = t.job_id WHERE j.queue = $1
"""


async def register(
    driver: asyncpg.Connection[asyncpg.Record],
    tasks: Iterable[str],
    *,
    slots: int = 1000,
    queues: list[str] | None = None,
) -> UUID:
    """Put a worker on record that knows these tasks; return its id."""
    worker = new_id()
    await driver.execute(_PROCESS, worker, queues, sorted(tasks), slots)
    return worker


@asynccontextmanager
async def fleet(road: Road, *, leaders: int, workers: int, slots: int = 10, fault: float = 0.0) -> AsyncIterator[None]:
    """Run leaders and workers for the block; a share of the jobs is given back, or fails, instead of succeeding."""
    stop = Stop()
    async with asyncio.TaskGroup() as parts:
        for _ in range(leaders):
            parts.create_task(_lead(road, stop))
        for number in range(workers):
            parts.create_task(_work(road, stop, (workers, number), slots=slots, fault=fault))
        try:
            yield
        finally:
            stop.set()


async def _lead(road: Road, stop: Stop) -> None:
    connection = await asyncpg.connect(road.settings.database_url)
    dispatcher = Dispatcher(road.redis)
    while not stop.is_set():
        await dispatcher.run_once(connection)
        await asyncio.sleep(0.001)
    await connection.close()


async def _work(road: Road, stop: Stop, part: tuple[int, int], *, slots: int, fault: float) -> None:
    chance = Random(part[1])  # noqa: S311 - what the test does, not a secret
    connection = await asyncpg.connect(road.settings.database_url)
    worker = await register(connection, road.registry.tasks, slots=slots)
    while not stop.is_set():
        entries = [Claim(*row) for row in await connection.fetch(_ON_BELT, *part)]
        if entries and chance.random() < fault:
            await return_queued(connection, entries[:1])
        won = await claim(connection, entries, worker)
        await asyncio.sleep(chance.uniform(0, 0.01))
        await settle(connection, [_outcome(job, fails=chance.random() < fault) for job in won])
        await asyncio.sleep(0.001)
    await connection.close()


def _outcome(job: Claim, *, fails: bool) -> Outcome:
    if fails:
        return Outcome(job.job_id, job.fence, JobState.PENDING, refund=True)
    return Outcome(job.job_id, job.fence, JobState.SUCCEEDED, result="null")


async def held(driver: asyncpg.Connection[asyncpg.Record], queue: str) -> dict[str | None, list[Interval]]:
    """Return from when until when jobs of a queue were released or running, by concurrency key."""
    found: dict[str | None, list[Interval]] = {}
    for key, at, until, state in await driver.fetch(_HELD, queue):
        if state in {"queued", "running"}:
            found.setdefault(key, []).append((at, until))
    return found


async def entered(driver: asyncpg.Connection[asyncpg.Record], queue: str, state: JobState) -> list[datetime]:
    """Return when jobs of a queue entered a state, each time that they did."""
    rows = await driver.fetch(
        "SELECT t.at FROM job_transitions t JOIN jobs j ON j.id = t.job_id WHERE j.queue = $1 AND t.state::text = $2",
        queue,
        state.value,
    )
    return [row["at"] for row in rows]
