"""Jobs whose concurrency key is busy stand aside, and come back when it has room.

Owns the way back. The release parks a job that it meets while as many others as may hold its key: a parked job is in
no line, so that neither a hundred thousand jobs of one key nor as many keys are in the way of the others. A key that
was held at the last pass and is held by fewer now lets its next jobs back into the line, the highest priority and the
oldest first. What this memory misses (a new leader, a cancelled job at the head) a walk along the parked keys finds: at
once at the start, then a part of it twice a second. To be back in the line is no permission: the release counts again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

import asyncpg

_LOOK_SECONDS = 0.5
_MOST_LOOKED_AT = 1000

_HELD = """
    SELECT queue, concurrency_key, count(*) AS jobs FROM jobs
    WHERE queue = ANY($1::text[]) AND concurrency_key IS NOT NULL AND NOT parked AND state IN ('queued', 'running')
    GROUP BY queue, concurrency_key
"""

# Hops from key to key over the index jobs_parked.
_WALK = """
    WITH RECURSIVE hop(queue, key, step) AS (
        (SELECT queue, concurrency_key, 1 FROM jobs
         WHERE state = 'pending' AND parked AND (queue, concurrency_key) > ($1, $2)
         ORDER BY queue, concurrency_key LIMIT 1)
        UNION ALL
        SELECT further.queue, further.concurrency_key, hop.step + 1
        FROM hop CROSS JOIN LATERAL (
            SELECT queue, concurrency_key FROM jobs
            WHERE state = 'pending' AND parked AND (queue, concurrency_key) > (hop.queue, hop.key)
            ORDER BY queue, concurrency_key LIMIT 1) AS further
        WHERE hop.step < $3)
    SELECT queue, key FROM hop
"""

# Where a key was just let go, whatever holds it no more makes room; where it was only come across, a job that is back
# in the line already counts as well, or each walk would bring back another one. What is in the line is found at its
# place in the index, by the order: to look for it would read the whole line. A job that no live worker knows stays.
_RETURN = """
    WITH free AS (
        SELECT k.queue, k.key, limits.per_key - k.held - CASE WHEN k.let_go THEN 0 ELSE (
                   SELECT count(*) FILTER (WHERE line.concurrency_key = k.key)::integer FROM (
                       SELECT concurrency_key FROM jobs
                       WHERE queue = k.queue AND state = 'pending' AND NOT parked AND concurrency_key IS NOT NULL
                         AND concurrency_key >= k.key AND task = ANY($5::text[])
                       ORDER BY concurrency_key LIMIT limits.per_key) AS line) END AS room
        FROM unnest($1::text[], $2::text[], $3::integer[], $4::boolean[]) AS k(queue, key, held, let_go)
        CROSS JOIN LATERAL (
            SELECT coalesce((SELECT per_key_concurrency FROM queues WHERE name = k.queue), 1) AS per_key) AS limits)
    UPDATE jobs SET parked = false
    FROM free CROSS JOIN LATERAL (
        SELECT id FROM jobs
        WHERE state = 'pending' AND parked AND queue = free.queue AND concurrency_key = free.key
          AND task = ANY($5::text[])
        ORDER BY priority DESC, run_at, id LIMIT greatest(free.room, 0)
        FOR UPDATE SKIP LOCKED) AS next
    WHERE jobs.id = next.id
    RETURNING jobs.id
"""

KeyOf = tuple[str, str]
"""A queue and a concurrency key in it."""


class Parking:
    """Remembers which keys are held, and brings back what may go."""

    def __init__(self) -> None:
        self._held: dict[KeyOf, int] = {}
        self._place: KeyOf = ("", "")
        self._walked_through = False
        self._look_at = 0.0

    def released(self, keys: Iterable[KeyOf]) -> None:
        """Take note of the keys of jobs that were released, so that it is noticed when they let go."""
        for key in keys:
            self._held[key] = self._held.get(key, 0) + 1

    def parked(self, keys: Mapping[KeyOf, int]) -> None:
        """Take note of keys whose jobs were parked, each with how many others at least hold it."""
        for key, jobs in keys.items():
            self._held[key] = max(jobs, self._held.get(key, 0))

    async def bring_back(
        self, connection: asyncpg.Connection[asyncpg.Record], queues: Sequence[str], tasks: Sequence[str]
    ) -> int:
        """Bring the jobs of keys that have room back into the line; `queues` are those with parked jobs."""
        let_go = await self._let_go(connection, queues)
        come_across = await self._walk(connection) - let_go
        keys = [*let_go, *come_across]
        if not keys:
            return 0
        held = [self._held.get(key, 0) for key in keys]
        marks = [key in let_go for key in keys]
        names = [queue for queue, _ in keys], [key for _, key in keys]
        return len(await connection.fetch(_RETURN, *names, held, marks, tasks))

    async def _let_go(self, connection: asyncpg.Connection[asyncpg.Record], queues: Sequence[str]) -> set[KeyOf]:
        held = {(row[0], row[1]): row[2] for row in await connection.fetch(_HELD, queues)}
        let_go = {key for key, jobs in self._held.items() if key[0] in queues and held.get(key, 0) < jobs}
        self._held = held
        return let_go

    async def _walk(self, connection: asyncpg.Connection[asyncpg.Record]) -> set[KeyOf]:
        if self._walked_through and time.monotonic() < self._look_at:
            return set()
        found = [(row[0], row[1]) for row in await connection.fetch(_WALK, *self._place, _MOST_LOOKED_AT)]
        self._look_at = time.monotonic() + _LOOK_SECONDS
        if len(found) < _MOST_LOOKED_AT:
            self._walked_through, self._place = True, ("", "")
        else:
            self._place = found[-1]
        return set(found)
