"""Deadlines: how long a subscriber may take for one event.

Owns one timer for all workers of a subscription. A timer per event would cost more than a subscriber that does little;
one look ten times a second at who began when costs nothing, and a deadline is late by a tenth of a second at most.
Never leave a worker cancelled: what was cancelled here is uncancelled here, and anybody else's cancellation passes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from headrace.loops import Stop

_LOOK_SECONDS = 0.1

Worker = asyncio.Task[None]


class DeliveryTimeoutError(TimeoutError):
    """A subscriber took longer than it may."""


class Deadlines:
    """Bounds what the workers of one subscription await; `seconds` None bounds nothing."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._began: dict[Worker, float] = {}
        self._expired: set[Worker] = set()

    async def within(self, worker: Worker, reaction: Coroutine[Any, Any, None]) -> None:
        """Await the reaction in `worker`, which is the current task.

        Raises:
            DeliveryTimeoutError: it took too long and was cancelled.

        """
        self._began[worker] = time.monotonic()
        try:
            await reaction
        except asyncio.CancelledError as error:
            if self._ended(worker) and not worker.cancelling():
                message = f"not done after {self._seconds} seconds"
                raise DeliveryTimeoutError(message) from error
            raise
        except BaseException:
            self._ended(worker)
            raise
        self._ended(worker)

    async def run(self) -> None:
        """Look after the workers until cancelled."""
        while self._seconds is not None:
            await Stop().wait(min(_LOOK_SECONDS, self._seconds))
            self.run_once()

    def run_once(self) -> None:
        """Cancel those that have taken too long."""
        if self._seconds is None:
            return
        latest = time.monotonic() - self._seconds
        for worker, began in self._began.items():
            if began <= latest and worker not in self._expired:
                self._expired.add(worker)
                worker.cancel()

    def _ended(self, worker: Worker) -> bool:
        """Forget a worker's deadline; tell whether it had passed."""
        del self._began[worker]
        if worker not in self._expired:
            return False
        self._expired.remove(worker)
        worker.uncancel()
        return True
