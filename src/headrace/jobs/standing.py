"""How the queues stand: what waits in each, since when, and who serves it.

Owns the counts that the API and the metrics show: of jobs that are unfinished, and of those that stopped without
success, exactly, from partial indexes. No index holds the succeeded ones, which are as many as the retention keeps:
a `Tally` counts them for the API at a bounded share of the time; the metrics, scraped all the time, leave them out.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.database.states import JobState
from headrace.errors import NotFoundError
from headrace.jobs.limits import Limits, limits_of
from headrace.transaction import Transaction

# each branch names its states literally, so that the planner can use the partial index of that state
_COUNTS = text("""
    SELECT queue, state, count(*) AS jobs FROM jobs WHERE state = 'pending' AND NOT parked GROUP BY queue, state
    UNION ALL
    SELECT queue, state, count(*) FROM jobs WHERE state = 'pending' AND parked GROUP BY queue, state
    UNION ALL
    SELECT queue, state, count(*) FROM jobs
    WHERE state IN ('scheduled', 'retrying') AND waits_for = 0 GROUP BY queue, state
    UNION ALL
    SELECT queue, state, count(*) FROM jobs WHERE state = 'scheduled' AND waits_for > 0 GROUP BY queue, state
    UNION ALL
    SELECT queue, state, count(*) FROM jobs WHERE state IN ('queued', 'running') GROUP BY queue, state
    UNION ALL
    SELECT queue, state, count(*) FROM jobs WHERE state IN ('dead', 'cancelled', 'expired') GROUP BY queue, state
""")

# reads nothing at all where the table is so large that reading it would take seconds
_SUCCEEDED = text("""
    SELECT queue, count(*) AS jobs FROM jobs
    WHERE state = 'succeeded' AND (SELECT reltuples FROM pg_class WHERE oid = CAST('jobs' AS regclass)) < 2000000
    GROUP BY queue
""")
_SHARE = 20

_OLDEST = text("""
    SELECT queue, extract(epoch FROM now() - min(run_at))::float8 AS seconds
    FROM (SELECT queue, run_at FROM jobs WHERE state = 'pending' AND NOT parked
          UNION ALL
          SELECT queue, run_at FROM jobs WHERE state = 'pending' AND parked) AS pending
    GROUP BY queue
""")

_QUEUES = text("""
    SELECT q.name, q.paused, q.concurrency, q.rate_limit, q.rate_per_seconds, q.per_key_concurrency,
           (SELECT count(*) FROM processes p WHERE p.role = 'worker' AND p.expires_at > now()
                AND (p.queues IS NULL OR q.name = ANY(p.queues))) AS workers
    FROM queues q ORDER BY q.name
""")

_PAUSE = text("""
    UPDATE queues SET paused = :paused,
        paused_at = CASE WHEN NOT :paused THEN NULL WHEN paused THEN paused_at ELSE now() END,
        paused_by = CASE WHEN NOT :paused THEN NULL WHEN paused THEN paused_by ELSE :by END
    WHERE name = :name RETURNING name
""")

_WORKERS = text("""
    SELECT p.id, p.host, p.pid, p.queues, p.tasks, p.slots, p.started_at, p.seen_at, p.expires_at > now() AS alive,
           (SELECT count(*) FROM jobs j WHERE j.worker_id = p.id AND j.state IN ('queued', 'running')) AS running
    FROM processes p
    WHERE p.role = 'worker' AND (CAST(:before AS uuid) IS NULL OR p.id < :before)
    ORDER BY p.id DESC LIMIT :limit
""")


class QueueStanding(msgspec.Struct, frozen=True):
    """A queue, as the API shows it."""

    name: str
    paused: bool
    counts: dict[str, int]
    """Jobs by state, those of which there are any; without `succeeded` where over two million jobs are on record."""
    oldest_pending_age_seconds: float | None
    workers: int
    """Worker processes that are alive and serve this queue."""
    limits: Limits | None
    """null where none is set."""


class WorkerStanding(msgspec.Struct, frozen=True):
    """A worker process, as the API shows it."""

    id: UUID
    host: str
    pid: int
    queues: list[str] | None
    """null for all."""
    tasks: list[str]
    slots: int
    """How many jobs it runs at once."""
    started_at: datetime
    seen_at: datetime
    alive: bool
    running: int
    """How many jobs it runs now."""


async def job_counts(connection: AsyncConnection) -> dict[str, dict[str, int]]:
    """Return the number of jobs by queue and state, without those that succeeded."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for row in await connection.execute(_COUNTS):
        found[row.queue][row.state] = found[row.queue].get(row.state, 0) + row.jobs
    return found


async def oldest_pending(connection: AsyncConnection) -> dict[str, float]:
    """Return for each queue in which a due job waits how many seconds ago the first of them was due."""
    return {row.queue: max(0.0, row.seconds) for row in await connection.execute(_OLDEST)}


class Tally:
    """Counts succeeded jobs by queue; a count holds for twenty times as long as it took: a millisecond's for 20 ms."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._holds_until = 0.0
        self._counting = asyncio.Lock()

    async def counts(self, connection: AsyncConnection) -> Mapping[str, int]:
        """Return the number of succeeded jobs of each queue that has some."""
        async with self._counting:
            began_at = time.monotonic()
            if began_at >= self._holds_until:
                self._counts = {row.queue: row.jobs for row in await connection.execute(_SUCCEEDED)}
                ended_at = time.monotonic()
                self._holds_until = ended_at + _SHARE * (ended_at - began_at)
            return self._counts


async def queue_standings(connection: AsyncConnection, succeeded: Mapping[str, int]) -> list[QueueStanding]:
    """Return every queue, by name; `succeeded` is what a `Tally` counted."""
    counts, oldest = await job_counts(connection), await oldest_pending(connection)
    for queue, number in succeeded.items():
        counts.setdefault(queue, {})[JobState.SUCCEEDED] = number
    return [
        QueueStanding(row.name, row.paused, counts.get(row.name, {}), oldest.get(row.name), row.workers, limits_of(row))
        for row in await connection.execute(_QUEUES)
    ]


async def set_paused(tx: Transaction, queue: str, *, paused: bool, by: str | None = None) -> None:
    """Pause a queue, or let it go on; what is on the belt already still runs. `by` says who pauses it, for the record.

    Raises:
        NotFoundError: there is no such queue.

    """
    if (await tx.connection.execute(_PAUSE, {"name": queue, "paused": paused, "by": by})).one_or_none() is None:
        message = f"there is no queue {queue}"
        raise NotFoundError(message)


async def workers(connection: AsyncConnection, *, limit: int, before: UUID | None = None) -> list[WorkerStanding]:
    """Return worker processes, the newest first, those that died a short while ago included."""
    rows = await connection.execute(_WORKERS, {"limit": limit, "before": before})
    return [WorkerStanding(*row) for row in rows]
