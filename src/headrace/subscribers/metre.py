"""The metre of a replay: not more events in a second than it may give.

Owns the pace. Portions are a quarter of a second's worth at most, so that a slow replay is slow evenly; a replay that
was held up does not catch up by a burst. Never wait where there is no bound.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

_AHEAD_SECONDS: Final = 0.25


class Metre:
    """Lets so many events pass per second; None lets all pass."""

    def __init__(self, rate_per_second: float | None) -> None:
        self._rate = rate_per_second
        self._free_at = time.monotonic()

    def portion(self, most: int) -> int:
        """Return how many events to take at once, at most `most`."""
        return most if self._rate is None else max(1, min(most, int(self._rate * _AHEAD_SECONDS)))

    async def pass_(self, events: int) -> None:
        """Wait until so many events may pass."""
        if self._rate is None:
            return
        now = time.monotonic()
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)
        self._free_at = max(self._free_at, now) + events / self._rate
