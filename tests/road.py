"""The jobs road within the test's own process: a relay, workers, and what the record says.

Owns the start and the end of these parts, as the processes start them, and the questions that tests ask. Every
database has a trigger that refuses a move of a job which is not in the transition table, so that each test of the road
tests the table too. Never sleep here: every wait is for a condition, with a bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, cast
from uuid import UUID

import asyncpg
import msgspec
from redis.asyncio import Redis

from headrace import diagnostics
from headrace.application import Registry, combine
from headrace.database.record import Record
from headrace.database.states import FINISHED, JobState
from headrace.jobs.model import Claim
from headrace.jobs.queries import Job, job_by_id
from headrace.relay.following import following
from headrace.relay.process import stand_by
from headrace.relay.releasing import keep_jobs, mend_belt, release_jobs
from headrace.resources import Resources, open_resources
from headrace.settings import Settings
from headrace.tasks.broker import RecordBroker
from headrace.testing import working as guest
from headrace.transaction import Transaction, transaction
from tests import trial

MIGRATIONS = ("storefront.migrations",)
PARTS = (release_jobs, keep_jobs, mend_belt, following({task.name: task for task in trial.application.tasks}))
BOUND_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Road:
    """The road of one test."""

    settings: Settings
    registry: Registry
    resources: Resources
    redis: Redis
    driver: asyncpg.Connection[asyncpg.Record]

    @property
    def record(self) -> Record:
        """The record."""
        return self.resources.record

    async def enqueue(self, *calls: Any) -> list[UUID]:  # noqa: ANN401 - calls, as `task.call` builds them
        """Enqueue calls in one transaction."""
        async with transaction(self.record) as tx:
            return await tx.enqueue_calls(calls)

    def transaction(self) -> Any:  # noqa: ANN401 - the context manager of a Transaction
        """Open a transaction."""
        return transaction(self.record)

    async def job(self, job_id: UUID) -> Job:
        """Return a job."""
        return await job_by_id(self.record, job_id)

    async def finished(self, job_id: UUID, seconds: float = BOUND_SECONDS) -> Job:
        """Wait until a job is finished."""
        return await self.in_state(job_id, *FINISHED, seconds=seconds)

    async def in_state(self, job_id: UUID, *states: JobState, seconds: float = BOUND_SECONDS) -> Job:
        """Wait until a job is in one of these states."""
        async with asyncio.timeout(seconds):
            while (job := await self.job(job_id)).state not in states:
                await asyncio.sleep(0.01)
        return job

    async def counts(self) -> dict[str, int]:
        """Return how many jobs are in each state."""
        rows = await self.driver.fetch("SELECT state::text, count(*) FROM jobs GROUP BY 1")
        return {row[0]: row[1] for row in rows}

    async def all_finished(self, seconds: float = BOUND_SECONDS) -> dict[str, int]:
        """Wait until every job is finished and return the counts."""
        async with asyncio.timeout(seconds):
            while not (counts := await self.counts()).keys() <= {state.value for state in FINISHED}:
                await asyncio.sleep(0.02)
        return counts

    async def effects(self) -> list[tuple[str, int]]:
        """Return the effects, each as key and attempt, in order."""
        return [tuple(row) for row in await self.driver.fetch("SELECT key, attempt FROM trial_effects ORDER BY at")]


@asynccontextmanager
async def open_road(database_url: str, redis_url: str) -> AsyncIterator[Road]:
    """Prepare the stores for the application `trial`, and bind it; no relay and no worker runs yet."""
    settings = Settings(
        database_url=database_url,
        redis_url=redis_url,
        applications="tests.trial:application",
        lease_seconds=1.0,
        worker_concurrency=20,
        shutdown_seconds=5.0,
    )
    registry = combine([diagnostics.application, trial.application])
    await trial.prepare(database_url)
    async with AsyncExitStack() as stack:
        driver = await asyncpg.connect(database_url)
        stack.push_async_callback(driver.close)
        redis = Redis.from_url(redis_url)
        stack.push_async_callback(redis.aclose)
        resources = await stack.enter_async_context(open_resources(settings, registry))
        yield Road(settings, registry, resources, redis, driver)


@asynccontextmanager
async def relaying(settings: Settings) -> AsyncIterator[None]:
    """Run the job parts of a relay for the block."""
    relay = guest.running(lambda stop: stand_by(settings, stop, migrations=MIGRATIONS, parts=PARTS), BOUND_SECONDS)
    async with relay:
        yield


@asynccontextmanager
async def working(
    road: Road, settings: Settings | None = None, *, at_once: int | None = None
) -> AsyncIterator[RecordBroker]:
    """Run a worker under Taskiq's own receiver for the block, which starts `at_once` jobs of those it has won."""
    resources = replace(road.resources, settings=settings or road.settings, registry=road.registry)
    async with guest.working(resources, at_once=at_once, seconds=BOUND_SECONDS) as broker:
        yield broker


@asynccontextmanager
async def running(road: Road) -> AsyncIterator[RecordBroker]:
    """Run a relay and a worker for the block."""
    async with relaying(road.settings), working(road) as broker:
        yield broker


async def eventually(condition: Callable[[], Coroutine[Any, Any, bool]], seconds: float = BOUND_SECONDS) -> None:
    """Wait until the condition holds, and fail if it does not in time."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.01)


async def rolled_back(tx_of: Road, work: Callable[[Transaction], Coroutine[Any, Any, None]]) -> None:
    """Do work in a transaction that ends with an exception."""

    class OnPurposeError(Exception):
        pass

    with suppress(OnPurposeError):
        async with transaction(tx_of.record) as tx:
            await work(tx)
            raise OnPurposeError


async def entries_of(redis: Redis, stream: str) -> list[tuple[bytes, Claim]]:
    """Return the entries of a job queue's stream, each with its id."""
    entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", await redis.xrange(stream))
    return [(entry, msgspec.msgpack.decode(fields[b"j"], type=Claim)) for entry, fields in entries]
