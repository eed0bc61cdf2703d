"""How fast each queue is worked off, written where everybody can read it.

Owns `queues.pace`: jobs that left the workers per second, smoothed over about twenty seconds in which jobs waited for
room. Any other second does not count, for it says nothing of what could have been done: so the pace says how fast the
next flood will go, and there is none before the first one. Written by the leader, once a second at most and only where
it changed; it decides nothing, and forecasts are made of it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping

import asyncpg

_INTERVAL_SECONDS = 1.0
_SMOOTHING = 20
_WORTH_WRITING = 0.01

_READ = "SELECT name, pace FROM queues WHERE pace IS NOT NULL"
_WRITE = """
    UPDATE queues SET pace = new.pace, pace_at = clock_timestamp()
    FROM unnest($1::text[], $2::float8[]) AS new(queue, pace)
    WHERE queues.name = (SELECT name FROM queues q WHERE q.name = new.queue FOR UPDATE SKIP LOCKED)
"""


class Paces:
    """Counts what was finished, and writes it as a pace."""

    def __init__(self) -> None:
        self._finished: Counter[str] = Counter()
        self._full: set[str] = set()
        self._was_full: set[str] = set()
        self._paces: dict[str, float] = {}
        self._seconds: Counter[str] = Counter()
        self._written: dict[str, float] = {}
        self._began_at = time.monotonic()
        self._read = False

    def count(self, finished: Mapping[str, int]) -> None:
        """Take note of how many jobs of each queue were worked off."""
        self._finished.update(finished)

    def full(self, queues: Iterable[str]) -> None:
        """Take note of queues in which jobs wait and have no room."""
        self._full.update(queues)

    async def write(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """Write the paces that have changed, when a second has passed."""
        elapsed = time.monotonic() - self._began_at
        if elapsed < _INTERVAL_SECONDS:
            return
        if not self._read:
            self._go_on_from({row["name"]: row["pace"] for row in await connection.fetch(_READ)})
        self._learn(elapsed)
        changed = {queue: pace for queue, pace in self._paces.items() if self._is_news(queue, pace)}
        if changed:
            await connection.execute(_WRITE, list(changed), list(changed.values()))
            self._written |= changed

    def _go_on_from(self, paces: dict[str, float]) -> None:
        self._written, self._read = dict(paces), True
        self._paces = paces
        self._seconds = Counter(dict.fromkeys(paces, _SMOOTHING))

    def _learn(self, elapsed: float) -> None:
        for queue in self._full:
            if queue in self._was_full:
                self._seconds[queue] += 1
            elif self._seconds[queue]:
                continue  # full in part only, and better is known
            before = self._paces.get(queue, 0.0)
            weight = 1 / min(max(1, self._seconds[queue]), _SMOOTHING)
            self._paces[queue] = before + weight * (self._finished[queue] / elapsed - before)
        self._finished.clear()
        self._was_full, self._full = self._full, set()
        self._began_at = time.monotonic()

    def _is_news(self, queue: str, pace: float) -> bool:
        written = self._written.get(queue)
        return written is None or abs(pace - written) > _WORTH_WRITING * max(written, _WORTH_WRITING)
