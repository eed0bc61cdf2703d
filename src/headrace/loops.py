"""The one way in which a part of Headrace repeats itself.

Owns `repeat`: run a step, pause, run it again, until told to stop. A step that fails is logged once and tried again
after a backoff with full jitter, so that a store which comes back is not met by everybody at once. Cancellation
always passes. Never loop over `asyncio.sleep` elsewhere; tests call the step itself.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import msgspec
import structlog

logger = structlog.get_logger(__name__)


class Stop:
    """A stop flag that can be waited for."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Ask everything that watches this flag to end."""
        self._event.set()

    def is_set(self) -> bool:
        """Tell whether the end was asked for."""
        return self._event.is_set()

    async def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until the flag is set or the time is up; tell whether it is set."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        return True


class Pace(msgspec.Struct, frozen=True):
    """How often a step runs: seconds between two runs, and the bounds of the backoff after failures."""

    interval_seconds: float
    first_backoff_seconds: float = 0.1
    last_backoff_seconds: float = 5.0

    def backoff_seconds(self, failures: int) -> float:
        """Return a random pause after that many failures in a row (full jitter, AWS Architecture Blog 2015)."""
        bound = min(self.last_backoff_seconds, self.first_backoff_seconds * 2 ** min(failures, 16))
        return random.uniform(self.first_backoff_seconds / 2, bound)  # noqa: S311 - jitter, not a secret


async def repeat(name: str, step: Callable[[], Awaitable[object]], pace: Pace, stop: Stop) -> None:
    """Run `step` every `pace.interval_seconds` (±10 %) until `stop` is set.

    Any exception of the step is survived: the parts that repeat must outlive every fault of a store. It is logged when
    it begins and when it is over, not at each try.
    """
    failures = 0
    while not stop.is_set():
        try:
            await step()
        except Exception as error:  # noqa: BLE001 - failure table: a store restarts, processes wait and go on
            failures += 1
            if failures == 1:
                logger.warning("step_failing", step=name, error=repr(error))
            await stop.wait(pace.backoff_seconds(failures))
            continue
        if failures:
            logger.info("step_recovered", step=name, failures=failures)
            failures = 0
        await stop.wait(pace.interval_seconds * random.uniform(0.9, 1.1))  # noqa: S311 - jitter, not a secret
