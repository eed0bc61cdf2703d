"""Jobs whose task no live worker knows stand aside, until one does.

Owns both ways. They are on record before the workers that know them are deployed, or after the last one has gone, and
there may be very many: in the line each pass would read them all to find what it may release. So a few times a second
the front of a line is looked at, and what is unknown there is parked. When a worker says that it knows a task, its jobs
come back into their lines. All parked jobs are looked through besides, at a bounded share of the time: another leader
may have parked some, or an operator renamed their task. Neither moves a job's state: it waits as `pending`, and
`explain` says that no worker knows its task.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import asyncpg

_LOOK_SECONDS = 0.25
_SHARE = 20
_GLANCE = 100
_DEPTH = 2000
_BATCH = 2000

_PARK = """
    WITH strange AS (
        SELECT front.id
        FROM unnest($1::text[]) AS line(queue)
        CROSS JOIN LATERAL (
            SELECT id, task FROM jobs
            WHERE state = 'pending' AND NOT parked AND queue = line.queue
            ORDER BY priority DESC, run_at, id LIMIT $2) AS front
        WHERE front.task <> ALL($3::text[])),
    chosen AS (
        SELECT j.id FROM strange CROSS JOIN LATERAL (
            SELECT id FROM jobs WHERE id = strange.id AND state = 'pending' FOR UPDATE SKIP LOCKED) AS j)
    UPDATE jobs SET parked = true FROM chosen WHERE jobs.id = chosen.id
    RETURNING jobs.id
"""
# Those with a key come back by the walk along the keys.
_RETURN = """
    UPDATE jobs SET parked = false
    WHERE id = ANY(ARRAY(
        SELECT id FROM jobs
        WHERE state = 'pending' AND parked AND concurrency_key IS NULL AND queue = ANY($1::text[])
          AND task = ANY($2::text[])
        LIMIT $3 FOR UPDATE SKIP LOCKED))
    RETURNING id
"""


class Unknown:
    """Parks jobs that nobody knows, and brings back those that somebody knows."""

    def __init__(self) -> None:
        self._known: frozenset[str] = frozenset()
        self._look_at = 0.0
        self._again_at = 0.0
        self._depth = _GLANCE

    async def park(
        self, connection: asyncpg.Connection[asyncpg.Record], queues: Sequence[str], tasks: Sequence[str]
    ) -> int:
        """Park what no task is known of at the front of these queues, if it is time to look; return how many jobs."""
        if time.monotonic() < self._look_at:
            return 0
        parked = len(await connection.fetch(_PARK, queues, self._depth, tasks))
        self._depth = _DEPTH if parked else _GLANCE
        self._look_at = time.monotonic() + (0.0 if parked else _LOOK_SECONDS)
        return parked

    async def bring_back(
        self, connection: asyncpg.Connection[asyncpg.Record], queues: Sequence[str], tasks: Sequence[str]
    ) -> int:
        """Bring back jobs of tasks that have become known, some at each call; `queues` are those with parked jobs."""
        began_at = time.monotonic()
        if began_at < self._again_at and self._known.issuperset(tasks):
            return 0
        returned = len(await connection.fetch(_RETURN, queues, tasks, _BATCH))
        if returned < _BATCH:
            self._known = frozenset(tasks)
            ended_at = time.monotonic()
            self._again_at = ended_at + max(_LOOK_SECONDS, _SHARE * (ended_at - began_at))
        return returned
