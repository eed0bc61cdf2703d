"""How much of each lane the belt holds, and how much more it may.

Owns the arithmetic of room: a stream holds what lies between the position that every subscription has acknowledged and
its end, and no more than `HEADRACE_LANE_CAPACITY` of it. Where each stream ends is what was last seen or done; what is
not known has no room. Positions are given without asking here, so nobody who publishes ever waits for room. Which lane
is full, and who holds it, is said once; so is that it has room again.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

logger = structlog.get_logger(__name__)

FULL_SECONDS = 0.5
"""How long a belt that has refused is left alone."""


class Capacity:
    """The ends of the streams, and their room."""

    def __init__(self, entries: int) -> None:
        """Let each stream hold `entries` at most."""
        self._entries = entries
        self._floors: Mapping[int, tuple[int, str | None]] = {}
        self._full: set[int] = set()
        self.ends: dict[int, int] = {}
        """Where the stream of each lane ends, as far as it is known."""

    def know_floors(self, acknowledged: Mapping[int, tuple[int, str | None]]) -> None:
        """Learn up to where each lane is acknowledged, and by whom it is held there."""
        self._floors = acknowledged

    def room(self, lane: int) -> int:
        """Return how many entries may still be appended to a lane."""
        if lane not in self.ends or lane not in self._floors:
            return 0
        return max(0, self._entries - max(0, self.ends[lane] - self._floors[lane][0]))

    def fits(self, lane: int, first: int, count: int) -> bool:
        """Tell whether entries that begin at a position follow the stream's end and have room."""
        return self.ends.get(lane) == first - 1 and self.room(lane) >= count

    def full(self, lane: int, reason: str) -> None:
        """Note that a lane waits for room; this is said once."""
        if lane not in self._full:
            self._full.add(lane)
            holder = self._floors.get(lane, (0, None))[1]
            logger.warning("lane_full", lane=lane, reason=reason, held_by=holder, end=self.ends.get(lane))

    def caught_up(self, lane: int) -> None:
        """Note that a lane's stream has all that the lane has."""
        if lane in self._full:
            self._full.remove(lane)
            logger.info("lane_has_room", lane=lane)
