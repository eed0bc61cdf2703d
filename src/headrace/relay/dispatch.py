"""Due jobs go from the record to the belt.

Owns the release: in the order of priority and age, and only as many as the workers can soon take. So a queue's pause,
its priorities and a cancellation are plain SQL until the last moment, and the belt is never longer than about 50 ms of
work. A release that does not reach the belt (Redis away, emptied, replaced) is noticed and made again by `upkeep`. The
caller holds the dispatcher's lease. Two dispatchers at once would release no job twice, but would overfill the belt.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import asyncpg
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from headrace.jobs.belt import FIELD, entry_of, stream_of
from headrace.jobs.model import Claim
from headrace.relay.room import Room
from headrace.streams.put import put
from headrace.telemetry.messages import Batch
from headrace.telemetry.names import job_destination
from headrace.telemetry.spans import dispatch

logger = structlog.get_logger(__name__)

_MAX_RELEASE = 500
_DUE_INTERVAL_SECONDS = 0.02
_CLAIM_COLUMNS = len(Claim.__struct_fields__)

_PROMOTE = """
    UPDATE jobs SET state = 'pending'
    WHERE id IN (SELECT id FROM jobs WHERE state IN ('scheduled', 'retrying') AND waits_for = 0
                 AND run_at <= now()
                 ORDER BY run_at LIMIT 1000 FOR UPDATE SKIP LOCKED)
"""

_EXPIRE = """
    UPDATE jobs SET state = 'expired', finished_at = now()
    WHERE state IN ('scheduled', 'pending', 'queued', 'retrying') AND expires_at <= now()
"""

# Ordered by the partial index jobs_pending: each queue is read from its front, as far as its room reaches. The room may
# be a quarter of a second old; a pause counts from the moment its request was answered, so it is looked up here.
# What comes back is what a Claim is made of, in its order, and then what the claims are sorted by.
_RELEASE = """
    WITH picked AS (
        SELECT j.id
        FROM unnest($1::text[], $2::integer[]) AS room(queue, n)
        CROSS JOIN LATERAL (
            SELECT id FROM jobs
            WHERE state = 'pending' AND NOT parked AND queue = room.queue AND task = ANY($3::text[])
            ORDER BY priority DESC, run_at, id
            LIMIT room.n
            FOR UPDATE SKIP LOCKED) AS j
        WHERE NOT EXISTS (SELECT FROM queues WHERE queues.name = room.queue AND paused))
    UPDATE jobs SET state = 'queued', fence = fence + 1, released_at = clock_timestamp()
    FROM picked WHERE jobs.id = picked.id
    RETURNING jobs.id, fence, attempt + 1, max_attempts, task, queue, args::text, traceparent, created_at,
              overrides::text, priority, run_at
"""


async def expire_jobs(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Give up jobs that did not start before their `expires_at`."""
    await connection.execute(_EXPIRE)


class Dispatcher:
    """Releases due jobs; the caller gives it a connection and calls `run_once` as often as there may be work."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._room = Room()
        self._due_at = 0.0

    async def run_once(self, connection: asyncpg.Connection[asyncpg.Record]) -> int:
        """Release what is due and has room; return how many jobs. -1 says that jobs wait and have no room."""
        if time.monotonic() >= self._due_at:
            await connection.execute(_PROMOTE)
            self._due_at = time.monotonic() + _DUE_INTERVAL_SECONDS
        room = await self._room.measure(connection)
        if not room.queues:
            return -1 if room.waiting else 0
        released = await self._release(connection, room.queues, room.counts, room.tasks)
        self._room.released(released)
        for queue in room.queues:
            await self._put_on_belt(queue, [job for job in released if job.queue == queue])
        return len(released)

    async def _release(
        self,
        connection: asyncpg.Connection[asyncpg.Record],
        queues: Sequence[str],
        counts: Sequence[int],
        tasks: Sequence[str],
    ) -> list[Claim]:
        bounded = [min(count, _MAX_RELEASE) for count in counts]
        rows = await connection.fetch(_RELEASE, queues, bounded, tasks)
        rows.sort(key=lambda row: (-row["priority"], row["run_at"], row["id"]))
        return [Claim(*row[:_CLAIM_COLUMNS]) for row in rows]

    async def _put_on_belt(self, queue: str, jobs: Sequence[Claim]) -> None:
        if not jobs:
            return
        with dispatch(Batch(job_destination(queue), [job.traceparent for job in jobs])):
            try:
                await put(self._redis, stream_of(queue), FIELD, [entry_of(job) for job in jobs])
            except (RedisError, OSError) as error:
                logger.warning("belt_away", queue=queue, jobs=len(jobs), error=repr(error))
