"""A backlog that is worked off: how fast, and at what cost.

Owns the watching, which is the same for Headrace and for everybody it is compared with. Every job waits before the
first worker starts. The clock runs from the moment at which a tenth of the jobs is finished to the last one, so that
neither the start of a process nor its first statements are part of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec

from bench.stage import Meter

WARM = 0.1
"""The share of the jobs that is finished before the clock runs."""
_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 120.0


class Drained(msgspec.Struct, frozen=True):
    """How fast a backlog was worked off; `cost` is processor time per job in microseconds, by process."""

    jobs: int
    seconds: float
    cost: dict[str, float]

    @property
    def rate(self) -> float:
        """Jobs per second."""
        return self.jobs / self.seconds

    @property
    def whole_cost(self) -> float:
        """Microseconds of processor time that a job took in all processes together."""
        return sum(self.cost.values())


async def watch(finished: Callable[[], Awaitable[int]], jobs: int, meter: Meter) -> Drained:
    """Watch the number of finished jobs grow to all of them."""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while (before := await finished()) < jobs * WARM:
            await asyncio.sleep(_POLL_SECONDS)
        began_at = time.monotonic()
        meter.start()
        while (after := await finished()) < jobs:
            await asyncio.sleep(_POLL_SECONDS)
    counted = after - before
    return Drained(counted, time.monotonic() - began_at, meter.microseconds_per(counted))
