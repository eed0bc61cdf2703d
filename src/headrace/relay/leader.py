"""The leader: of all relay processes, one leads and the others stand by.

Owns the lease `relay`. Its holder runs the parts it was given (lanes, dispatch, rescue) and renews; a standby asks for
the lease twice a second, so it leads within the lease's time and half a second of the leader's death. A leader that
cannot renew steps down by itself before the lease is another's, and every write of a part names the fence, for the case
that it was only asleep. Never start a part without a fence.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio import Redis

from headrace.database.record import Record
from headrace.leases import Fence, Leases
from headrace.loops import Pace, Stop, repeat
from headrace.settings import Settings

logger = structlog.get_logger(__name__)

LEASE = "relay"
_ASK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Leadership:
    """What a part of the leader works with, until `stop` is set or it is cancelled."""

    record: Record
    redis: Redis
    settings: Settings
    fence: Fence
    stop: Stop


Part = Callable[[Leadership], Coroutine[Any, Any, None]]
"""A part runs until its `stop` is set, survives every fault of a store, and may be cancelled at any await."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What every leadership of a process stands on."""

    record: Record
    redis: Redis
    settings: Settings


class Leader:
    """Asks for the lease, and leads while it has it."""

    def __init__(self, ground: Ground, leases: Leases, parts: Sequence[Part]) -> None:
        self._ground = ground
        self._leases = leases
        self._parts = parts

    async def run(self, stop: Stop) -> None:
        """Stand by or lead until `stop` is set."""
        await repeat("lead", lambda: self.run_once(stop), Pace(_ASK_SECONDS, last_backoff_seconds=1.0), stop)

    async def run_once(self, stop: Stop) -> None:
        """Ask for the lease; where it is free, lead until it is lost or `stop` is set."""
        taken = await self._leases.take([LEASE])
        if LEASE not in taken:
            return
        fence = taken[LEASE]
        logger.info("leading", epoch=fence.epoch)
        try:
            await self._lead(fence, stop)
        finally:
            logger.info("leading_no_more", epoch=fence.epoch)

    async def _lead(self, fence: Fence, stop: Stop) -> None:
        ending = Stop()
        ground = self._ground
        leadership = Leadership(ground.record, ground.redis, ground.settings, fence, ending)
        keeping = asyncio.create_task(self._keep(fence, stop))
        parts = [asyncio.create_task(part(leadership)) for part in self._parts]
        try:
            await asyncio.wait([keeping, *parts], return_when=asyncio.FIRST_COMPLETED)
            ending.set()
            if stop.is_set():  # what a part has begun it may finish while the lease lasts
                await asyncio.wait(parts, timeout=ground.settings.lease_seconds / 2)
        finally:
            for task in (keeping, *parts):
                task.cancel()
            outcomes = await asyncio.gather(keeping, *parts, return_exceptions=True)
        await self._leases.release({LEASE: fence})
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _keep(self, fence: Fence, stop: Stop) -> None:
        """Renew the lease; return when `stop` is set, or when the lease is lost or may be."""
        seconds = self._ground.settings.lease_seconds
        renewed_at = time.monotonic()
        while not await stop.wait(seconds / 4):
            try:
                async with asyncio.timeout(renewed_at + seconds - time.monotonic()):
                    asked_at = time.monotonic()
                    if not await self._leases.renew({LEASE: fence}):
                        return
                    renewed_at = asked_at
            except Exception as error:  # noqa: BLE001 - failure table: the record is away; lead on only while the lease lasts
                logger.warning("lease_not_renewed", error=repr(error))
                if time.monotonic() - renewed_at >= seconds * 0.9:
                    return
