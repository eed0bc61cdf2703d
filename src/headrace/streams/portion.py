"""Portions: how many entries move at a time, by number and by bytes.

Owns a number that follows what the entries weigh: it begins small, doubles while full portions are light, and shrinks
at once when one was heavy. So events of 256 KB move by few and small ones by hundreds, and memory stays bounded either
way. Never take a portion of none: an entry heavier than the budget still has to move.
"""

from __future__ import annotations

FIRST = 50
BUDGET_BYTES = 4 * 1024 * 1024
_SHRINK = 4


class Portion:
    """The number of entries to move next, at most `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.count = min(FIRST, most)

    def moved(self, count: int, size_bytes: int) -> None:
        """Learn from a portion that had `count` entries of `size_bytes` together."""
        if size_bytes > BUDGET_BYTES:
            self.count = max(1, min(count, self.count) // _SHRINK)
        elif count >= self.count:
            self.count = min(self._most, self.count * 2)
