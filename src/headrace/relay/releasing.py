"""Releasing jobs: the loops of the leader that put due jobs on the belt and mend what was lost on the way.

Owns a connection to the record that carries the releases and listens for the bell. A bell after a quiet time is
answered at once; after a release the loop gathers for a moment, and while jobs wait for room it looks every 12 ms,
because a release of many costs PostgreSQL little more than a release of one. With nothing to do it looks ever less
often, up to ten times a second, because a bell may be lost and a delay may end. Upkeep runs beside it: what needs the
record alone (rescue, expiry) apart from what needs Redis too, which may hang. A fault of either store ends the
connection, and the loop begins anew with another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from headrace.database.record import Bell
from headrace.jobs.limits import tidy_starts
from headrace.loops import Pace, repeat
from headrace.relay.belt_upkeep import remove_dead_consumers, return_lost
from headrace.relay.connection import connected
from headrace.relay.dispatch import Dispatcher, expire_jobs
from headrace.relay.gone_groups import remove_gone_groups
from headrace.relay.leader import Leadership
from headrace.relay.rescue import rescue_once

_GATHER_SECONDS = 0.004
_NO_ROOM_SECONDS = 0.012
_FIRST_PAUSE_SECONDS = 0.003
_LAST_PAUSE_SECONDS = 0.1
_REBEGIN = Pace(0.0, first_backoff_seconds=0.05, last_backoff_seconds=1.0)
_UPKEEP = Pace(0.5, first_backoff_seconds=0.1, last_backoff_seconds=1.0)
_CLEANING = Pace(10.0)


async def release_jobs(leadership: Leadership) -> None:
    """Release due jobs until the leadership ends."""
    await release_with(leadership, lambda: Dispatcher(leadership.redis))


async def release_with(leadership: Leadership, dispatcher: Callable[[], Dispatcher]) -> None:
    """Release due jobs by way of a dispatcher, which is made anew after each fault, until the leadership ends."""
    await repeat("release_jobs", lambda: _release(leadership, dispatcher()), _REBEGIN, leadership.stop)


async def keep_jobs(leadership: Leadership) -> None:
    """Rescue the jobs of dead workers, give up expired ones, and forget old starts, until the leadership ends."""
    async with asyncio.TaskGroup() as parts:
        parts.create_task(repeat("keep_jobs", lambda: _keep(leadership), _UPKEEP, leadership.stop))
        parts.create_task(repeat("tidy_starts", lambda: _tidy(leadership), _CLEANING, leadership.stop))


async def mend_belt(leadership: Leadership) -> None:
    """Return what was lost on the belt and take away what dead workers left on it, until the leadership ends."""
    async with asyncio.TaskGroup() as parts:
        parts.create_task(repeat("return_lost", lambda: _return_lost(leadership), _UPKEEP, leadership.stop))
        parts.create_task(repeat("clean_belt", lambda: _clean(leadership), _CLEANING, leadership.stop))


async def _release(leadership: Leadership, dispatcher: Dispatcher) -> None:
    async with connected(leadership) as connection:
        rung = asyncio.Event()
        await connection.add_listener(Bell.JOBS.value, lambda *_: rung.set())
        pause = _FIRST_PAUSE_SECONDS
        while not leadership.stop.is_set():
            rung.clear()
            released = await dispatcher.run_once(connection)
            if released:
                await leadership.stop.wait(_GATHER_SECONDS if released > 0 else _NO_ROOM_SECONDS)
                pause = _FIRST_PAUSE_SECONDS
                continue
            pause = min(pause * 2, _LAST_PAUSE_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await rung.wait()


async def _keep(leadership: Leadership) -> None:
    async with connected(leadership) as connection:
        while not await leadership.stop.wait(_UPKEEP.interval_seconds):
            await rescue_once(leadership.record, lease_seconds=leadership.settings.lease_seconds)
            await expire_jobs(connection)


async def _tidy(leadership: Leadership) -> None:
    async with connected(leadership) as connection:
        await tidy_starts(connection)


async def _return_lost(leadership: Leadership) -> None:
    async with connected(leadership) as connection:
        while not await leadership.stop.wait(_UPKEEP.interval_seconds):
            await return_lost(connection, leadership.redis)


async def _clean(leadership: Leadership) -> None:
    async with connected(leadership) as connection:
        await remove_dead_consumers(connection, leadership.redis)
        await remove_gone_groups(connection, leadership.redis)
