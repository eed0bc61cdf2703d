"""Misfortune: what happens to a deployment, when, and for how long; drawn from the seed before anything starts.

Owns the kinds of blows and their plan. A blow that lasts (a process that is stopped, a store that is away) does not
hold up the next one, so that they overlap as they please. Whatever a blow has stopped it lets go again, at the latest
when the run ends. Only processes that this run has started are touched: their pids come from its own record.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Final

import asyncpg
import msgspec
import psutil
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.job_processes import Store, World

_CUT: Final = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
_LEADER: Final = "SELECT p.pid FROM leases l JOIN processes p ON p.id = l.holder WHERE l.name = 'relay'"
_LONG_PAUSE_SECONDS: Final = 60.0
_QUIET_END: Final = 0.08
"""The last part of a run, in which nothing begins."""


class Kind(StrEnum):
    """What may happen."""

    WORKER_KILLED = "worker: SIGKILL"
    WORKER_STOPPED = "worker: SIGSTOP for up to four leases"
    WORKER_STOPPED_LONG = "worker: SIGSTOP for 60 s"
    WORKER_ENDED = "worker: SIGTERM of its manager"
    RELAY_KILLED = "relay: SIGKILL of the leader"
    RELAY_STOPPED = "relay: SIGSTOP of the leader for up to four leases"
    API_KILLED = "API: SIGKILL"
    REDIS_EMPTIED = "Redis: FLUSHALL"
    REDIS_KILLED = "Redis: SIGKILL and restart"
    REDIS_STOPPED = "Redis: SIGSTOP"
    POSTGRES_CRASHED = "PostgreSQL: crash and restart"
    CONNECTIONS_CUT = "PostgreSQL: every connection cut"


_SHARES: Final = {
    Kind.WORKER_KILLED: 24,
    Kind.WORKER_STOPPED: 14,
    Kind.WORKER_ENDED: 3,
    Kind.RELAY_KILLED: 10,
    Kind.RELAY_STOPPED: 7,
    Kind.API_KILLED: 4,
    Kind.REDIS_EMPTIED: 8,
    Kind.REDIS_KILLED: 7,
    Kind.REDIS_STOPPED: 4,
    Kind.CONNECTIONS_CUT: 3,
}


class Blow(msgspec.Struct, frozen=True):
    """One of them."""

    at_seconds: float
    kind: Kind
    share: float
    """Which of the candidates is hit, and how long it lasts: a number from 0 to 1."""


def plan(seed: int, *, seconds: float, every_seconds: float) -> list[Blow]:
    """Draw the blows of a run. PostgreSQL crashes once; a run that is long enough has a pause of a minute."""
    dice = random.Random(seed)  # noqa: S311 - misfortune that can be repeated
    until = seconds * (1 - _QUIET_END)
    count = max(1, round(until / every_seconds))
    kinds = dice.choices(list(_SHARES), weights=list(_SHARES.values()), k=count)
    blows = [Blow(dice.uniform(0.5, until), kind, dice.random()) for kind in kinds]
    blows.append(Blow(dice.uniform(0.3, 0.7) * until, Kind.POSTGRES_CRASHED, dice.random()))
    if seconds > 2 * _LONG_PAUSE_SECONDS:
        blows.append(Blow(dice.uniform(0.1, 0.6) * until, Kind.WORKER_STOPPED_LONG, dice.random()))
    return sorted(blows, key=lambda blow: blow.at_seconds)


class Misfortune:
    """Strikes a world; `struck` says how often by what."""

    def __init__(self, world: World, redis: Store, postgres: Store, api: subprocess.Popen[bytes]) -> None:
        self._world, self._redis, self._postgres, self._api = world, redis, postgres, api
        self._lease = world.settings.lease_seconds
        self._away = {store: asyncio.Lock() for store in (redis, postgres)}
        self.struck: Counter[Kind] = Counter()
        self._hands: dict[Kind, Callable[[float], Awaitable[None]]] = {
            Kind.WORKER_KILLED: self._worker_killed,
            Kind.WORKER_STOPPED: lambda share: self._worker_stopped(share, 4 * share * self._lease),
            Kind.WORKER_STOPPED_LONG: lambda share: self._worker_stopped(share, _LONG_PAUSE_SECONDS),
            Kind.WORKER_ENDED: self._worker_ended,
            Kind.RELAY_KILLED: self._relay_killed,
            Kind.RELAY_STOPPED: self._relay_stopped,
            Kind.API_KILLED: self._api_killed,
            Kind.REDIS_EMPTIED: self._redis_emptied,
            Kind.REDIS_KILLED: lambda share: self._restarted(self._redis, signal.SIGKILL, 2 * share),
            Kind.REDIS_STOPPED: self._redis_stopped,
            Kind.POSTGRES_CRASHED: lambda share: self._restarted(self._postgres, signal.SIGQUIT, 3 * share),
            Kind.CONNECTIONS_CUT: self._connections_cut,
        }

    async def happen(self, blows: Sequence[Blow]) -> None:
        """Let the blows happen, each at its time."""
        began_at = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as under_way:
            for blow in blows:
                await asyncio.sleep(max(0.0, began_at + blow.at_seconds - asyncio.get_running_loop().time()))
                under_way.create_task(self._strike(blow))

    async def _strike(self, blow: Blow) -> None:
        """Strike once; a blow that finds nobody, because another one was there first, is none."""
        with suppress(OSError, RedisError, asyncpg.PostgresError, asyncpg.InterfaceError, psutil.NoSuchProcess):
            await self._hands[blow.kind](blow.share)
            self.struck[blow.kind] += 1

    async def _worker_killed(self, share: float) -> None:
        """Taskiq's manager starts another one."""
        os.kill(await self._one_of("worker", share), signal.SIGKILL)

    async def _worker_stopped(self, share: float, seconds: float) -> None:
        await _stop_for(await self._one_of("worker", share), seconds)

    async def _worker_ended(self, share: float) -> None:
        """A deploy: an old worker ends, a new one starts."""
        manager = psutil.Process(await self._one_of("worker", share)).ppid()
        if manager in _descendants():
            self._world.worker()
            os.kill(manager, signal.SIGTERM)

    async def _relay_killed(self, share: float) -> None:
        del share
        os.kill(await self._leader(), signal.SIGKILL)
        self._world.relay()

    async def _relay_stopped(self, share: float) -> None:
        await _stop_for(await self._leader(), 4 * share * self._lease)

    async def _api_killed(self, share: float) -> None:
        del share
        self._api.kill()
        self._api.wait()
        self._api = self._world.api()

    async def _redis_emptied(self, share: float) -> None:
        del share
        async with Redis.from_url(self._redis.url) as client:
            await client.flushall()

    async def _redis_stopped(self, share: float) -> None:
        """Connections stay open and nobody answers."""
        async with self._away[self._redis]:
            self._redis.signal(signal.SIGSTOP)
            await asyncio.sleep(2 * share * self._lease)  # how long it hangs
            self._redis.signal(signal.SIGCONT)

    async def _restarted(self, store: Store, by: signal.Signals, seconds: float) -> None:
        async with self._away[store]:
            await asyncio.to_thread(store.end, by)
            await asyncio.sleep(seconds)  # how long it is away
            await store.start()

    async def _connections_cut(self, share: float) -> None:
        del share
        await self._world.rows(_CUT)

    async def _one_of(self, role: str, share: float) -> int:
        live = [pid for pid in await self._world.pids(role) if pid in _descendants()]
        if not live:
            raise ProcessLookupError
        return live[int(share * len(live))]

    async def _leader(self) -> int:
        leaders = await self._world.rows(_LEADER)
        if not leaders or leaders[0][0] not in _descendants():
            raise ProcessLookupError
        pid: int = leaders[0][0]
        return pid


def _descendants() -> set[int]:
    """Return the processes that this run has started: a pid on record may be somebody else's by now."""
    return {process.pid for process in psutil.Process().children(recursive=True)}


async def _stop_for(pid: int, seconds: float) -> None:
    """SIGSTOP a process, and SIGCONT it after that time, or when the run is ended before."""
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)  # how long it is stopped
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
