"""How many jobs each queue's workers can soon take.

Owns the measure that the dispatcher releases by. A queue has room for as many jobs as its live workers have slots, and
beyond that for 50 ms of what they have lately been finishing; what is on the belt or running is taken off. A queue that
is paused, or that no live worker serves, has none; a task that no live worker knows is not released.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import asyncpg
import msgspec

from headrace.jobs.model import Claim

_AHEAD_SECONDS = 0.05
_MEMORY = 0.7
_WORKERS_INTERVAL_SECONDS = 0.25

_WORKERS = """
    SELECT queues, tasks, slots FROM processes WHERE role = 'worker' AND expires_at > now()
"""
_PAUSED = "SELECT name FROM queues WHERE paused"
_REGISTER = "INSERT INTO queues (name) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING"

# What is in flight, and (by hopping over the partial index jobs_pending) the queues in which something waits.
_DEMAND = """
    WITH RECURSIVE waiting(queue) AS (
        (SELECT queue FROM jobs WHERE state = 'pending' AND NOT parked ORDER BY queue LIMIT 1)
        UNION ALL
        SELECT (SELECT queue FROM jobs
                WHERE state = 'pending' AND NOT parked AND queue > waiting.queue ORDER BY queue LIMIT 1)
        FROM waiting WHERE waiting.queue IS NOT NULL)
    SELECT queue, NULL::bigint AS in_flight FROM waiting WHERE queue IS NOT NULL
    UNION ALL
    SELECT queue, count(*) FROM jobs WHERE state IN ('queued', 'running') GROUP BY queue
"""


class Serving(msgspec.Struct, frozen=True):
    """A live worker: what it serves and how much."""

    queues: list[str] | None
    tasks: list[str]
    slots: int


class Measured(msgspec.Struct, frozen=True):
    """Queues with room and how much; `waiting` tells whether jobs wait at all."""

    queues: list[str]
    counts: list[int]
    tasks: list[str]
    waiting: bool


class Room:
    """Measures; remembers how fast each queue is being worked off."""

    def __init__(self) -> None:
        self._workers: list[Serving] = []
        self._paused: set[str] = set()
        self._known: set[str] = set()
        self._refreshed_at = 0.0
        self._in_flight: dict[str, int] = {}
        self._rates: dict[str, float] = {}
        self._measured_at = time.monotonic()

    async def measure(self, connection: asyncpg.Connection[asyncpg.Record]) -> Measured:
        """Measure the room of every queue in which a job waits."""
        if time.monotonic() - self._refreshed_at >= _WORKERS_INTERVAL_SECONDS:
            await self._refresh(connection)
        waiting, in_flight = await self._demand(connection)
        self._learn_rates(in_flight)
        room = {queue: self._room_of(queue, in_flight.get(queue, 0)) for queue in waiting}
        queues = [queue for queue, count in room.items() if count > 0]
        tasks = sorted({task for worker in self._workers for task in worker.tasks})
        return Measured(queues, [room[queue] for queue in queues], tasks, bool(waiting))

    def released(self, jobs: Sequence[Claim]) -> None:
        """Take note of a release, so that the next measure sees how many were worked off since."""
        for job in jobs:
            self._in_flight[job.queue] = self._in_flight.get(job.queue, 0) + 1

    def _room_of(self, queue: str, in_flight: int) -> int:
        if queue in self._paused:
            return 0
        slots = sum(worker.slots for worker in self._workers if worker.queues is None or queue in worker.queues)
        if not slots:
            return 0
        ahead = int(self._rates.get(queue, 0.0) * _AHEAD_SECONDS)
        room = slots + ahead - in_flight
        return room if in_flight < slots or room >= ahead // 2 else 0  # a belt that is more than half full can wait

    async def _refresh(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._workers = [Serving(row["queues"], row["tasks"], row["slots"]) for row in await connection.fetch(_WORKERS)]
        self._paused = {row["name"] for row in await connection.fetch(_PAUSED)}
        self._refreshed_at = time.monotonic()

    async def _demand(self, connection: asyncpg.Connection[asyncpg.Record]) -> tuple[list[str], dict[str, int]]:
        rows = await connection.fetch(_DEMAND)
        waiting = [row["queue"] for row in rows if row["in_flight"] is None]
        if unknown := set(waiting) - self._known:
            await connection.execute(_REGISTER, sorted(unknown))
            self._known |= unknown
        return waiting, {row["queue"]: row["in_flight"] for row in rows if row["in_flight"] is not None}

    def _learn_rates(self, in_flight: dict[str, int]) -> None:
        elapsed = max(time.monotonic() - self._measured_at, 0.001)
        self._measured_at = time.monotonic()
        for queue in self._in_flight.keys() | in_flight.keys():
            finished = max(0, self._in_flight.get(queue, 0) - in_flight.get(queue, 0))
            before = self._rates.get(queue, 0.0)
            self._rates[queue] = _MEMORY * before + (1 - _MEMORY) * finished / elapsed
        self._in_flight = in_flight
