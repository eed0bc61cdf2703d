"""Misfortune: the hands that strike a deployment as the plan says.

Owns how each kind of blow is dealt. One that lasts (a process that is stopped, a store that is away) does not hold up
the next one. Whatever a blow has stopped it lets go again, at the latest when the run ends. Only processes that this
run has started are touched: their pids come from its own record.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

import asyncpg
import psutil
from redis.asyncio import Redis
from redis.exceptions import RedisError

from headrace.streams.names import lane_key
from tests.chaos.blows import LONG_PAUSE_SECONDS, Blow, Kind
from tests.job_processes import World
from tests.own_stores import Store

_CUT: Final = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
_LANES: Final = 4
_LEADER: Final = "SELECT p.pid FROM leases l JOIN processes p ON p.id = l.holder WHERE l.name = 'relay'"


class Misfortune:
    """Strikes a world; `struck` says how often by what."""

    def __init__(self, world: World, redis: Store, postgres: Store, api: subprocess.Popen[bytes] | None = None) -> None:
        """Strike `world` and its stores, and the API where it has one."""
        self._world, self._redis, self._postgres, self._api = world, redis, postgres, api
        self._lease = world.settings.lease_seconds
        self._away = {store: asyncio.Lock() for store in (redis, postgres)}
        self.struck: Counter[Kind] = Counter()
        self._hands: dict[Kind, Callable[[float], Awaitable[None]]] = {
            Kind.WORKER_KILLED: self._worker_killed,
            Kind.WORKER_STOPPED: lambda share: self._worker_stopped(share, 4 * share * self._lease),
            Kind.WORKER_STOPPED_LONG: lambda share: self._worker_stopped(share, LONG_PAUSE_SECONDS),
            Kind.WORKER_ENDED: self._worker_ended,
            Kind.RELAY_KILLED: self._relay_killed,
            Kind.RELAY_STOPPED: self._relay_stopped,
            Kind.API_KILLED: self._api_killed,
            Kind.REDIS_EMPTIED: self._redis_emptied,
            Kind.REDIS_KILLED: lambda share: self._restarted(self._redis, signal.SIGKILL, 2 * share),
            Kind.REDIS_STOPPED: self._redis_stopped,
            Kind.REDIS_LOST: self._redis_lost,
            Kind.REDIS_OLDER: self._redis_older,
            Kind.LANE_DELETED: self._lane_deleted,
            Kind.LANE_REPLACED: self._lane_replaced,
            Kind.GROUP_DESTROYED: self._group_destroyed,
            Kind.CONSUMER_KILLED: self._consumer_killed,
            Kind.CONSUMER_STOPPED: self._consumer_stopped,
            Kind.CONSUMER_ENDED: self._consumer_ended,
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
        if self._api is None:
            raise ProcessLookupError
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

    async def _redis_lost(self, share: float) -> None:
        """It comes back as an empty one."""
        async with self._away[self._redis]:
            await asyncio.to_thread(self._redis.end, signal.SIGKILL)
            self._redis.lose()
            await asyncio.sleep(share)  # how long it is away
            await self._redis.start()

    async def _redis_older(self, share: float) -> None:
        """It comes back as it was some seconds ago: what a replica that was behind becomes when it is promoted."""
        async with self._away[self._redis]:
            copy = await asyncio.to_thread(self._redis.copy)
            await asyncio.sleep(1.0 + 5.0 * share)  # how far the copy is behind
            await asyncio.to_thread(self._redis.end, signal.SIGKILL)
            await asyncio.to_thread(self._redis.become, copy)
            await self._redis.start()

    async def _lane_deleted(self, share: float) -> None:
        async with Redis.from_url(self._redis.url) as client:
            await client.delete(_lane(share))

    async def _lane_replaced(self, share: float) -> None:
        async with Redis.from_url(self._redis.url) as client:
            await client.set(_lane(share), "not a stream")

    async def _group_destroyed(self, share: float) -> None:
        async with Redis.from_url(self._redis.url) as client:
            groups = await client.xinfo_groups(_lane(share))
            if groups:
                await client.xgroup_destroy(_lane(share), groups[int(share * len(groups))]["name"])

    async def _consumer_killed(self, share: float) -> None:
        os.kill(await self._one_of("consume", share), signal.SIGKILL)
        self._world.consume()

    async def _consumer_stopped(self, share: float) -> None:
        await _stop_for(await self._one_of("consume", share), 4 * share * self._lease)

    async def _consumer_ended(self, share: float) -> None:
        """A deploy: a new one comes, an old one gives its lanes back."""
        pid = await self._one_of("consume", share)
        self._world.consume()
        os.kill(pid, signal.SIGTERM)

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


def _lane(share: float) -> str:
    return lane_key(int(share * _LANES))


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
