"""The relay and the stores are killed under a load of jobs: everything accepted still happens, and once."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis

from headrace.diagnostics import sleep
from tests import trial
from tests.job_processes import World, open_world, processes, settings_of
from tests.own_stores import own_postgres, own_redis

pytestmark = pytest.mark.processes

LEADS_SECONDS = 8.0
"""The promise is five seconds; the machine may be busy."""


async def load(world: World, number: int, *, seconds: float = 0.02) -> list[str]:
    """Enqueue jobs that each write an effect, and return their keys."""
    keys = [f"{number}-{n}" for n in range(number)]
    await world.enqueue(*(trial.write.call(key, seconds) for key in keys))
    return keys


async def test_every_job_is_done_once_when_the_leading_relay_is_killed(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """SIGKILL of the relay under load: the standby goes on in time, nothing is lost, nothing happens twice."""
    async with open_world(settings_of(database_url, redis_url, lease_seconds=3.0), tmp_path) as world:
        world.relay()
        leader = await world.leader()
        world.relay()
        world.worker()
        await world.registered("relay", 2)
        await world.registered("worker")
        keys = await load(world, 800)
        await world.succeeded(100)

        os.kill(leader, signal.SIGKILL)
        killed_at = time.monotonic()
        await world.eventually(lambda: _leads_another(world, leader))
        took = time.monotonic() - killed_at
        counts = await world.all_finished()

        assert took < LEADS_SECONDS
        assert counts == {"succeeded": 800}
        assert await world.effects() == dict.fromkeys(keys, 1)
        assert await world.rows("SELECT max(attempt) FROM jobs") == [(1,)]


async def _leads_another(world: World, leader: int) -> bool:
    return await world.any_row(
        "SELECT 1 FROM leases l JOIN processes p ON p.id = l.holder WHERE l.name = 'relay' AND p.pid <> $1", leader
    )


async def test_every_job_is_done_once_when_redis_is_killed_emptied_and_cut_off(
    database_url: str, tmp_path: Path
) -> None:
    """SIGKILL and a restart two seconds later, then FLUSHALL, under load: Redis may lose everything at any time."""
    async with (
        own_redis(tmp_path) as redis,
        open_world(settings_of(database_url, redis.url), tmp_path) as world,
        Redis.from_url(redis.url) as client,
    ):
        world.relay()
        world.worker()
        await world.registered("worker")
        (long,) = await world.enqueue(sleep.call(4.0))
        runner = await world.runner_of(long)
        keys = await load(world, 1200)
        await world.succeeded(100)

        redis.end(signal.SIGKILL)
        await asyncio.sleep(1.0)  # how long Redis is away, not a wait for something
        await redis.start()
        await world.succeeded(400)
        await client.flushall()
        await world.succeeded(700)
        await client.flushall()
        counts = await world.all_finished()

        assert counts == {"succeeded": 1201}
        assert await world.effects() == dict.fromkeys(keys, 1)
        assert await world.rows("SELECT max(attempt) FROM jobs") == [(1,)]
        assert await world.pids("worker") == [runner]  # the worker outlived it all, and the long job with it


async def test_jobs_go_on_when_redis_hangs(database_url: str, tmp_path: Path) -> None:
    """SIGSTOP of Redis: connections stay open and nobody answers. Rescue does not wait for it, and reading resumes."""
    async with own_redis(tmp_path) as redis, open_world(settings_of(database_url, redis.url), tmp_path) as world:
        world.relay()
        world.worker()
        await world.registered("worker")
        (job_id,) = await world.enqueue(sleep.call(60.0))
        runner = await world.runner_of(job_id)

        redis.signal(signal.SIGSTOP)
        os.kill(runner, signal.SIGKILL)
        begin = time.monotonic()
        await world.eventually(lambda: world.any_row("SELECT 1 FROM job_attempts WHERE outcome = 'lost'"))
        rescued_after = time.monotonic() - begin
        redis.signal(signal.SIGCONT)
        keys = await load(world, 100)
        await world.succeeded(100)

        assert rescued_after < 4.0
        assert await world.effects() == dict.fromkeys(keys, 1)


async def test_every_job_settles_once_when_postgresql_restarts(redis_url: str, tmp_path: Path) -> None:
    """A crash and a restart of PostgreSQL under load: processes wait and go on; no attempt of theirs dies of it."""
    async with own_postgres(tmp_path) as store, open_world(settings_of(store.url, redis_url), tmp_path) as world:
        world.relay()
        world.worker()
        await world.registered("worker")
        (long,) = await world.enqueue(sleep.call(4.0))
        await world.runner_of(long)
        keys = await load(world, 1000)
        await world.succeeded(100)

        store.end(signal.SIGQUIT)
        await asyncio.sleep(1.5)  # how long PostgreSQL is away, longer than the lease
        await store.start()
        counts = await world.all_finished()

        assert counts == {"succeeded": 1001}
        assert await world.effects() == dict.fromkeys(keys, 1)
        assert await world.rows("SELECT attempt FROM jobs WHERE id = $1", long) == [(1,)]


async def test_worker_and_relay_end_in_time_when_postgresql_is_away(redis_url: str, tmp_path: Path) -> None:
    """SIGTERM with outcomes that cannot be recorded: the worker gives up in a bounded time, and nothing is lost."""
    async with own_postgres(tmp_path) as store, open_world(settings_of(store.url, redis_url), tmp_path) as world:
        relay, worker = world.relay(), world.worker()
        await world.registered("worker")
        ids = await world.enqueue(*(sleep.call(1.0) for _ in range(10)))
        await world.runner_of(ids[-1])

        store.end(signal.SIGQUIT)
        begin = time.monotonic()
        for process in (relay, worker):
            process.send_signal(signal.SIGTERM)
        for process in (relay, worker):
            await asyncio.to_thread(process.wait, 25)
        took = time.monotonic() - begin
        await store.start()
        world.relay()
        world.worker()
        counts = await world.all_finished()

        assert took < 20.0
        assert counts == {"succeeded": 10}


async def test_processes_end_in_time_when_they_still_wait_for_postgresql(redis_url: str, tmp_path: Path) -> None:
    """A process that is told to end before its PostgreSQL has come does not wait for it."""
    settings = settings_of("postgresql://postgres@127.0.0.1:1/none", redis_url)
    async with processes(settings, tmp_path) as world:
        started = [world.relay(), world.worker()]
        await world.said("record_away", len(started))

        begin = time.monotonic()
        for process in started:
            process.send_signal(signal.SIGTERM)
        codes = [await asyncio.to_thread(process.wait, 15) for process in started]

        assert time.monotonic() - begin < 8.0
        assert codes == [0, 0]
