"""A run of chaos: a deployment under load, and everything in it dies, again and again.

Owns the order of things: stores, processes, then load and misfortune side by side, then quiet until every job has
ended, then the checker. Its plan is made of the seed alone. The stores are this run's own, as are all processes; none
is left when the run ends.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import asyncpg
import httpx
import msgspec

from headrace.clock import now
from headrace.database.states import FINISHED
from headrace.stack.ports import free_port
from tests.chaos import tasks
from tests.chaos.blows import Kind, plan
from tests.chaos.misfortune import Misfortune
from tests.chaos.mix import Draw, mix
from tests.chaos.producers import Producers
from tests.chaos.reading import most_of_one_key, read_history, started_too_early
from tests.history import Verdict, check
from tests.job_processes import World, processes, settings_of
from tests.own_stores import own_postgres, own_redis

RELAYS: Final = 2
WORKERS: Final = 3
_KEY: Final = "chaos-key"
_AUTHORIZED: Final = {"Authorization": f"Bearer {_KEY}"}
_LOOK_SECONDS: Final = 0.2
_DEAD_PARENTS: Final = """
    SELECT DISTINCT j.id FROM jobs j JOIN job_parents l ON l.parent_id = j.id
    WHERE j.state = 'dead' AND l.satisfied_at IS NULL
"""
_UNFINISHED: Final = "SELECT 1 FROM jobs WHERE NOT state::text = ANY($1) LIMIT 1"
_LOAD_SHARE: Final = 0.9
"""The part of the time in which jobs are enqueued."""


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """How large a run is."""

    seed: int
    seconds: float
    jobs: int
    lease_seconds: float = 3.0
    longest_seconds: float = 6.0
    """How long the slowest jobs take."""
    every_seconds: float = 2.5
    """The mean time between two blows."""
    patience_seconds: float = 120.0
    """How long jobs may still take when everything is quiet again."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run."""

    measure: Measure
    verdict: Verdict
    struck: Mapping[Kind, int]
    most_of_one_key: int
    """How many jobs of one concurrency key ran at once; one is the limit."""
    started_too_early: int
    """How many jobs of workflows became due before all their parents had succeeded."""
    settled_seconds: float
    """How long after the end of load and misfortune the last job ended."""


async def run_chaos(measure: Measure, directory: Path) -> Result:
    """Run once, in a directory that keeps the logs and the ledger."""
    ledger = directory / "ledger"
    async with (
        own_redis(directory) as redis,
        own_postgres(directory) as postgres,
        _deployment(directory, measure, postgres.url, redis.url) as world,
        httpx.AsyncClient(base_url=_address(world), headers=_AUTHORIZED, timeout=10, trust_env=False) as client,
    ):
        misfortune = Misfortune(world, redis, postgres, await _started(world, client))
        producers = Producers(world, client)
        draw = Draw(measure.seed, str(ledger), measure.longest_seconds, now())
        async with asyncio.TaskGroup() as together:
            together.create_task(producers.run(mix(draw, jobs=measure.jobs, seconds=measure.seconds * _LOAD_SHARE)))
            blows = plan(measure.seed, seconds=measure.seconds, every_seconds=measure.every_seconds)
            together.create_task(misfortune.happen(blows))
        settled_seconds = await _settled(world, producers, measure.patience_seconds)
        return Result(
            measure=measure,
            verdict=check(await read_history(world, producers.accepted, ledger)),
            struck=dict(misfortune.struck),
            most_of_one_key=await most_of_one_key(world),
            started_too_early=await started_too_early(world),
            settled_seconds=settled_seconds,
        )


@asynccontextmanager
async def _deployment(directory: Path, measure: Measure, database_url: str, redis_url: str) -> AsyncIterator[World]:
    settings = msgspec.structs.replace(
        settings_of(database_url, redis_url, lease_seconds=measure.lease_seconds),
        applications="tests.chaos.tasks:application",
        api_key=_KEY,
        port=free_port(),
    )
    await tasks.prepare(database_url)
    async with processes(settings, directory) as world:
        yield world


async def _started(world: World, client: httpx.AsyncClient) -> subprocess.Popen[bytes]:
    """Start every process; return the API when all of them answer or are on record."""
    for _ in range(RELAYS):
        world.relay()
    for _ in range(WORKERS):
        world.worker()
    api = world.api()
    await world.registered("relay", RELAYS)
    await world.registered("worker", WORKERS)
    await world.eventually(lambda: _is_ready(client))
    return api


async def _is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/health/ready")).is_success
    except httpx.TransportError:
        return False


async def _settled(world: World, producers: Producers, patience_seconds: float) -> float:
    """Wait until every job has ended, or patience is over: what is left then is lost, and the checker says so.

    An operator retries the dead parents of jobs that wait for them: those die of nothing but their workers' deaths.
    """
    began_at = time.monotonic()
    with suppress(TimeoutError):
        async with asyncio.timeout(patience_seconds):
            while await _any_unfinished(world):
                await producers.retry([row[0] for row in await world.rows(_DEAD_PARENTS)])
                await asyncio.sleep(_LOOK_SECONDS)
    return time.monotonic() - began_at


async def _any_unfinished(world: World) -> bool:
    with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return await world.any_row(_UNFINISHED, [state.value for state in FINISHED])
    return True


def _address(world: World) -> str:
    return f"http://{world.settings.host}:{world.settings.port}"
