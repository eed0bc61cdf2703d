"""How many jobs each queue's workers can soon take.

Owns the measure that the dispatcher releases by. Workers have room for as many jobs as they have slots free, and
beyond that for 50 ms of what they have lately been finishing; what is on the belt is taken off. Queues that share
workers share their room, as `sharing` says. A queue that is paused, at a limit, or served by no live worker has none; a
task that no live worker knows is not released. Pauses and limits may be a quarter of a second old here: it is the
release that makes them count from the moment of their answer.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from uuid import UUID

import asyncpg
import msgspec

from headrace.jobs.model import Claim
from headrace.relay.demand import Demand, Front, read_demand, read_fronts
from headrace.relay.paces import Paces
from headrace.relay.sharing import Served, Wish, serving, share

MAX_RELEASE = 500
"""How many jobs of one queue a pass releases at most."""
_AHEAD_SECONDS = 0.05
_MEMORY_SECONDS = 0.1
"""Over how long rates are smoothed: jobs that end together must not look like a flood of short ones."""
_REFRESH_SECONDS = 0.25
_SOON_SECONDS = 0.1
"""A queue that opens within this is worth looking often."""
_LEAST_ELAPSED_SECONDS = 0.002
_MOST_LOOKED_AT = 2000

_WORKERS = "SELECT id, queues, tasks, slots FROM processes WHERE role = 'worker' AND expires_at > now()"
_RULES = """
    SELECT name, paused, concurrency, rate_limit IS NOT NULL AS rated FROM queues
    WHERE paused OR concurrency IS NOT NULL OR rate_limit IS NOT NULL
"""
_REGISTER = "INSERT INTO queues (name) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING"


class Serving(msgspec.Struct, frozen=True):
    """A live worker: what it serves and how much."""

    id: UUID
    queues: list[str] | None
    tasks: list[str]
    slots: int


class Rules(msgspec.Struct, frozen=True):
    """What a queue with a pause or limits is held to."""

    paused: bool = False
    concurrency: int | None = None
    rated: bool = False


class Measured(msgspec.Struct, frozen=True):
    """How many jobs may be released of which queues."""

    free: dict[str, int]
    """Of queues that are released from without counting anything."""
    gated: dict[str, int]
    """Of queues whose jobs must be counted first: with limits, or with jobs that have a concurrency key."""
    rated: list[str]
    """Those of the gated ones that have a rate."""
    lines: list[str]
    """Queues in which jobs are in line for workers that there are."""
    parked: list[str]
    """Queues with parked jobs."""
    tasks: list[str]
    waiting: bool
    """Whether jobs wait for room."""


class Room:
    """Measures; remembers how fast each queue is being worked off."""

    def __init__(self) -> None:
        self.paces = Paces()
        self._workers: list[Serving] = []
        self._tasks: list[str] = []
        self._rules: dict[str, Rules] = {}
        self._known: set[str] = set()
        self._refreshed_at = 0.0
        self._shut_until: dict[str, float] = {}
        self._served: dict[str, int] = {}
        self._passes = 0
        self._in_flight: dict[str, int] = {}
        self._rates: dict[str, float] = {}
        self._measured_at = time.monotonic()

    async def measure(self, connection: asyncpg.Connection[asyncpg.Record]) -> Measured:
        """Measure the room of every queue in which a job waits."""
        if time.monotonic() - self._refreshed_at >= _REFRESH_SECONDS:
            await self._refresh(connection)
        demand = await read_demand(connection)
        await self._register(connection, demand.waiting)
        self._learn_rates(demand.in_flight)
        able = {queue: self._most(queue, demand.in_flight.get(queue, 0)) for queue in demand.waiting}
        wanting = {queue: most for queue, most in able.items() if most > 0}
        pools = self.pools(demand)
        fronts = await self._fronts(connection, pools, wanting)
        room = {queue: given for queue, given in self._shared(pools, wanting, fronts, demand).items() if given}
        gated = {queue: n for queue, n in room.items() if queue in demand.keyed or self._is_limited(queue)}
        self.paces.full(queue for queue in demand.waiting if queue not in room and not self._is_paused(queue))
        return Measured(
            free={queue: n for queue, n in room.items() if queue not in gated},
            gated=gated,
            rated=[queue for queue in gated if self._rules.get(queue, Rules()).rated],
            lines=[queue for queue in wanting if serving(pools, queue)],
            parked=demand.parked,
            tasks=self._tasks,
            waiting=bool(demand.parked) or any(not self._is_shut(queue, _SOON_SECONDS) for queue in demand.waiting),
        )

    def released(self, jobs: Sequence[Claim]) -> None:
        """Take note of a release, so that the next measure sees how many were worked off since."""
        self._passes += 1
        for queue, count in Counter(job.queue for job in jobs).items():
            self._in_flight[queue] = self._in_flight.get(queue, 0) + count
            self._served[queue] = self._passes

    def shut(self, queues: Iterable[tuple[str, float]]) -> None:
        """Leave queues alone for so many seconds, at most until pauses and limits are looked at again."""
        for queue, seconds in queues:
            self._shut_until[queue] = time.monotonic() + min(seconds, _REFRESH_SECONDS)

    def pools(self, demand: Demand) -> dict[Served, int]:
        """Return the places free in each pool of workers that serve the same queues."""
        slots: Counter[Served] = Counter()
        free: Counter[Served] = Counter()
        for worker in self._workers:
            names = None if worker.queues is None else frozenset(worker.queues)
            slots[names] += worker.slots
            free[names] += max(0, worker.slots - demand.running.get(worker.id, 0))
        ahead = self._ahead(slots)
        places = {names: free[names] + ahead[names] for names in slots}
        for queue, jobs in demand.queued.items():
            _take(places, serving(places, queue), jobs)
        # a belt that is more than half full can wait
        return {names: max(0, count) if count >= ahead[names] // 2 else 0 for names, count in places.items()}

    def _ahead(self, slots: Counter[Served]) -> Counter[Served]:
        """Return what lies ready for each pool beyond its slots, so that nobody waits for the relay."""
        ahead: dict[Served, float] = dict.fromkeys(slots, 0.0)
        for queue, rate in self._rates.items():
            able = serving(slots, queue)
            total = sum(slots[names] for names in able)
            for names in able:
                ahead[names] += rate * _AHEAD_SECONDS * slots[names] / total if total else 0.0
        return Counter({names: int(jobs) for names, jobs in ahead.items()})

    def _most(self, queue: str, in_flight: int) -> int:
        rules = self._rules.get(queue)
        if self._is_shut(queue):
            return 0
        if rules is None or rules.concurrency is None:
            return MAX_RELEASE
        return min(MAX_RELEASE, rules.concurrency - in_flight)

    def _is_shut(self, queue: str, soon_seconds: float = 0.0) -> bool:
        shut_until = self._shut_until.get(queue, 0.0)
        return self._is_paused(queue) or shut_until > time.monotonic() + soon_seconds

    def _is_paused(self, queue: str) -> bool:
        return self._rules.get(queue, Rules()).paused

    def _is_limited(self, queue: str) -> bool:
        rules = self._rules.get(queue)
        return rules is not None and (rules.rated or rules.concurrency is not None)

    async def _fronts(
        self,
        connection: asyncpg.Connection[asyncpg.Record],
        pools: dict[Served, int],
        wanting: dict[str, int],
    ) -> dict[str, Front]:
        """Return what waits at the front of each queue, where that decides who gets the room."""
        free = sum(pools.values())
        if len(wanting) < 2 or not free:  # noqa: PLR2004 - one queue has nobody to share with
            return {queue: {0: most} for queue, most in wanting.items()}
        depth = min(free, max(1, _MOST_LOOKED_AT // len(wanting)))
        return await read_fronts(connection, list(wanting), depth, self._tasks)

    def _shared(
        self, pools: dict[Served, int], wanting: dict[str, int], fronts: dict[str, Front], demand: Demand
    ) -> dict[str, int]:
        if len(wanting) == 1:
            ((queue, most),) = wanting.items()
            return {queue: min(most, sum(pools[names] for names in serving(pools, queue)))}
        wishes = [
            Wish(queue, demand.in_flight.get(queue, 0), most, fronts[queue], self._served.get(queue, 0))
            for queue, most in wanting.items()
            if queue in fronts
        ]
        return share(pools, wishes)

    async def _refresh(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._workers = [Serving(*row) for row in await connection.fetch(_WORKERS)]
        self._tasks = sorted({task for worker in self._workers for task in worker.tasks})
        self._rules = {row[0]: Rules(*row[1:]) for row in await connection.fetch(_RULES)}
        self._refreshed_at = time.monotonic()
        self._shut_until = {queue: until for queue, until in self._shut_until.items() if until > self._refreshed_at}

    async def _register(self, connection: asyncpg.Connection[asyncpg.Record], queues: Iterable[str]) -> None:
        if unknown := set(queues) - self._known:
            await connection.execute(_REGISTER, sorted(unknown))
            self._known |= unknown

    def _learn_rates(self, in_flight: dict[str, int]) -> None:
        elapsed = time.monotonic() - self._measured_at
        if elapsed < _LEAST_ELAPSED_SECONDS:
            return
        self._measured_at = time.monotonic()
        finished: dict[str, int] = {}
        weight = 1 - math.exp(-elapsed / _MEMORY_SECONDS)
        for queue in self._in_flight.keys() | in_flight.keys():
            finished[queue] = max(0, self._in_flight.get(queue, 0) - in_flight.get(queue, 0))
            before = self._rates.get(queue, 0.0)
            self._rates[queue] = before + weight * (finished[queue] / elapsed - before)
        self._in_flight = in_flight
        self.paces.count(finished)


def _take(places: dict[Served, int], able: Sequence[Served], jobs: int) -> None:
    """Take what waits on a queue's belt off the places of those that serve it; the last one bears what is too much."""
    for names in able:
        taken = jobs if names == able[-1] else max(0, min(jobs, places[names]))
        places[names] -= taken
        jobs -= taken
