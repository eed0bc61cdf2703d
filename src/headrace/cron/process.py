"""The clock process: ARQ ticks, the record decides.

Owns what the process is made of: the record, its presence, and the functions that ARQ calls. ARQ carries every tick
through Redis, so a second hand in the process watches for silence: when ARQ has not ticked for two seconds (Redis is
away, or hangs) the second hand ticks itself until ARQ does again. A store that is away is waited for; a step that fails
is done again at its next time, and the ledger makes up for it by policy. Never keep a schedule's state here, nor in
Redis.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any, Final

import structlog
from arq.connections import ArqRedis
from redis.asyncio.retry import Retry
from redis.backoff import EqualJitterBackoff, NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError

from headrace.application import Registry
from headrace.cron import upkeep
from headrace.cron.fire import fire_due
from headrace.cron.register import register_schedules
from headrace.database.ready import wait_until_ready
from headrace.database.record import Record, open_record
from headrace.loops import Pace, Stop, repeat
from headrace.presence import Identity, Presence
from headrace.settings import Settings
from headrace.telemetry.logs import configure_logging
from headrace.telemetry.setup import configure

logger = structlog.get_logger(__name__)

SILENCE_SECONDS: Final = 2.0
"""After so long without a tick by ARQ the second hand ticks."""

TICK_SECONDS: Final = 10.0
"""How long a tick, or a rescue, may take."""

UPKEEP_SECONDS: Final = 600.0
"""How long pruning and making partitions may take."""

_LOOK: Final = Pace(interval_seconds=0.5)
_PASSING: Final = (RedisConnectionError, RedisTimeoutError, OutOfMemoryError, ReadOnlyError)
"""What passes by itself: Redis is away, full, or became a replica."""

Context = dict[str, Any]
"""What ARQ hands to every function it calls."""


class Clock:
    """The parts of a clock process; ARQ calls its functions, `start` first and `stop` last."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings = settings
        self._registry = registry
        self._stack = AsyncExitStack()
        self._stop = Stop()
        self._ticking = asyncio.Lock()
        self._ticked_at = 0.0
        self._failing: set[str] = set()
        self._record: Record

    async def start(self, ctx: Context) -> None:
        """Open the record, register the schedules of the code, and begin to tick."""
        configure_logging(self._settings, "cron")
        logging.getLogger("arq.worker").setLevel(logging.WARNING)  # else two lines for each tick
        self._stack.callback(configure("cron").shutdown)
        _outlive_redis(ctx["redis"])
        self._record = await self._stack.enter_async_context(open_record(self._settings))
        await wait_until_ready(self._record.engine, self._registry.migrations)
        await register_schedules(self._record, self._registry)
        presence = Presence(self._settings.database_url, Identity("cron", self._settings.lease_seconds))
        await presence.start()
        self._stack.push_async_callback(presence.stop)
        self._ticked_at = time.monotonic()
        second_hand = asyncio.create_task(repeat("second_hand", self._look, _LOOK, self._stop), name="second_hand")
        self._stack.push_async_callback(_ended, second_hand)
        logger.info("clock_started", schedules=len(self._registry.schedules))

    async def stop(self, _ctx: Context) -> None:
        """End the second hand, say that this clock is gone, and close the record."""
        self._stop.set()
        await self._stack.aclose()

    async def tick(self, _ctx: Context) -> None:
        """Fire what is due; ARQ calls this every second."""
        self._ticked_at = time.monotonic()
        await self._tick()

    async def rescue(self, _ctx: Context) -> None:
        """Let the jobs of dead workers run again."""
        await self._survive("rescue", lambda: upkeep.rescue(self._record, self._settings), TICK_SECONDS)

    async def make_partitions(self, _ctx: Context) -> None:
        """Make the partitions of the coming days."""
        await self._survive("make_partitions", lambda: upkeep.make_partitions(self._record), UPKEEP_SECONDS)

    async def forget(self, _ctx: Context) -> None:
        """Delete what has a retention of its own."""
        await self._survive("forget", lambda: upkeep.forget(self._record), UPKEEP_SECONDS)

    async def prune(self, _ctx: Context) -> None:
        """Delete what is older than the retention."""
        await self._survive("prune", lambda: upkeep.prune(self._record, self._settings), UPKEEP_SECONDS)

    async def _look(self) -> None:
        """Tick in ARQ's place where it is silent."""
        silent = time.monotonic() - self._ticked_at > SILENCE_SECONDS
        self._tell("arq", "its ticks do not come: is Redis away?" if silent else None)
        if silent:
            await self._tick()

    async def _tick(self) -> None:
        if self._ticking.locked():  # what the one under way leaves, the next one takes
            return
        async with self._ticking:
            await self._survive("tick", lambda: fire_due(self._record, self._registry), TICK_SECONDS)

    async def _survive(self, step: str, run: Callable[[], Awaitable[object]], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await run()
        except Exception as error:  # noqa: BLE001 - failure table: PostgreSQL restarts, processes wait and go on
            self._tell(step, repr(error))
        else:
            self._tell(step, None)

    def _tell(self, step: str, error: str | None) -> None:
        """Log the begin and the end of a failure, not each try."""
        if error is not None and step not in self._failing:
            self._failing.add(step)
            logger.warning("step_failing", step=step, error=error)
        elif error is None and step in self._failing:
            self._failing.remove(step)
            logger.info("step_recovered", step=step)


def _outlive_redis(redis: ArqRedis) -> None:
    """Let ARQ wait for a Redis that is away or full, where it would end the process, until it is told to end.

    ARQ deletes a key at its end, and would wait for Redis once more. Where that fails ARQ does not call `stop` and ends
    with code 1; the lease of the process then runs out by itself.
    """
    redis.set_retry(Retry(EqualJitterBackoff(cap=1.0, base=0.05), retries=-1, supported_errors=_PASSING))
    main = asyncio.current_task()
    if main is not None:
        main.add_done_callback(lambda _: redis.set_retry(Retry(NoBackoff(), retries=0)))


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
