"""Anything may die at any time, again and again: every job is done, every effect is there once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import asyncpg
import psutil
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests import trial
from tests.job_processes import Store, World, open_world, own_postgres, own_redis, settings_of

pytestmark = [pytest.mark.processes, pytest.mark.slow]

JOBS = 2000
_CUT = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


class Misfortune:
    """What may happen to a deployment; the seed says what does."""

    def __init__(self, world: World, redis: Store, postgres: Store, seed: int) -> None:
        self._world, self._redis, self._postgres = world, redis, postgres
        self._random = random.Random(seed)  # noqa: S311 - misfortune that can be repeated
        self.kinds: list[Callable[[], Awaitable[None]]] = [
            self.worker_killed,
            self.worker_killed,
            self.worker_paused,
            self.relay_killed,
            self.redis_killed,
            self.redis_emptied,
            self.postgres_crashed,
            self.connections_cut,
        ]

    async def happen(self) -> None:
        """Let one of them happen."""
        with suppress(OSError, RedisError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await self._random.choice(self.kinds)()

    async def worker_killed(self) -> None:
        """SIGKILL of a worker; Taskiq's manager starts another one."""
        os.kill(await self._worker(), signal.SIGKILL)

    async def worker_paused(self) -> None:
        """SIGSTOP of a worker for less or more than its lease."""
        pid = await self._worker()
        os.kill(pid, signal.SIGSTOP)
        await self._for_a_while(0.3, 2.5)
        os.kill(pid, signal.SIGCONT)

    async def relay_killed(self) -> None:
        """SIGKILL of the relay that leads; another one stands by, and a third is started."""
        os.kill(await self._world.leader(), signal.SIGKILL)
        self._world.relay()

    async def redis_killed(self) -> None:
        """SIGKILL and restart of Redis."""
        self._redis.end(signal.SIGKILL)
        await self._for_a_while(0.1, 1.0)
        await self._redis.start()

    async def redis_emptied(self) -> None:
        """FLUSHALL."""
        async with Redis.from_url(self._redis.url) as client:
            await client.flushall()

    async def postgres_crashed(self) -> None:
        """An immediate shutdown of PostgreSQL, and its recovery."""
        self._postgres.end(signal.SIGQUIT)
        await self._for_a_while(0.1, 2.0)
        await self._postgres.start()

    async def connections_cut(self) -> None:
        """Every connection to PostgreSQL is ended."""
        await self._world.rows(_CUT)

    async def _worker(self) -> int:
        live = [pid for pid in await self._world.pids("worker") if psutil.pid_exists(pid)]
        return self._random.choice(live or await self._world.registered("worker"))

    async def _for_a_while(self, least: float, most: float) -> None:
        await asyncio.sleep(self._random.uniform(least, most))  # how long the misfortune lasts


@pytest.mark.parametrize("seed", [7])
async def test_every_effect_happens_once_whatever_dies(tmp_path: Path, seed: int) -> None:
    """Two thousand jobs that each write through their session, while all parts of the deployment come and go."""
    async with (
        own_redis(tmp_path) as redis,
        own_postgres(tmp_path) as postgres,
        open_world(settings_of(postgres.url, redis.url), tmp_path) as world,
    ):
        keys = [str(n) for n in range(JOBS)]
        await world.enqueue(*(trial.write.call(key, 0.05) for key in keys))
        world.relay()
        world.relay()
        for _ in range(3):
            world.worker()
        await world.registered("worker", 3)
        misfortune = Misfortune(world, redis, postgres, seed)

        for tenth in range(1, 10):
            await world.succeeded(JOBS * tenth // 10)
            await misfortune.happen()
        counts = await world.all_finished()

        assert counts == {"succeeded": JOBS}
        assert await world.effects() == dict.fromkeys(keys, 1)
