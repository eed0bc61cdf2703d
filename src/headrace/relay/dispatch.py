"""Due jobs go from the record to the belt.

Owns the release: in the order of priority and age, and only as many as the workers can soon take. So a queue's pause,
its priorities and a cancellation are plain SQL until the last moment, and the belt is never longer than about 50 ms of
work. What has a limit or a concurrency key goes through the gate; everything else is released by one statement. A
release that does not reach the belt (Redis away, full, emptied, replaced) is noticed and made again by `upkeep`; after
one that failed, nothing more is released for half a second. The caller holds the dispatcher's lease. Two dispatchers at
once would release no job twice and break no limit, but would overfill the belt.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import asyncpg
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from headrace.jobs.belt import FIELD, entry_of, stream_of
from headrace.jobs.limits import shut_for
from headrace.jobs.model import Claim
from headrace.relay.gate import Gate
from headrace.relay.parking import Parking
from headrace.relay.room import Measured, Room
from headrace.relay.unknown import Unknown
from headrace.streams.put import put
from headrace.telemetry.messages import Batch
from headrace.telemetry.names import job_destination
from headrace.telemetry.spans import dispatch

logger = structlog.get_logger(__name__)

_DUE_INTERVAL_SECONDS = 0.02
_REST_SECONDS = 0.5
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
# be a quarter of a second old; a pause or a limit counts from the moment its request was answered, so the queue's row
# is locked: what was committed meanwhile is seen, whoever changes it next waits for this statement, and where somebody
# is at it the queue is passed over. A pending job that is not due was given back by a worker that does not know its
# task: it lets the others go first, or it would be back there at once. What comes back is what a Claim is made of, in
# its order, and then what the claims are sorted by.
_RELEASE = """
    WITH open AS (
        SELECT room.queue, room.n
        FROM unnest($1::text[], $2::integer[]) AS room(queue, n) JOIN queues q ON q.name = room.queue
        WHERE NOT q.paused AND q.concurrency IS NULL AND q.rate_limit IS NULL
        FOR SHARE OF q SKIP LOCKED),
    picked AS (
        SELECT j.id, j.concurrency_key
        FROM open CROSS JOIN LATERAL (
            SELECT id, concurrency_key FROM jobs
            WHERE state = 'pending' AND NOT parked AND queue = open.queue AND run_at <= now() AND task = ANY($3::text[])
            ORDER BY priority DESC, run_at, id
            LIMIT open.n
            FOR UPDATE SKIP LOCKED) AS j)
    UPDATE jobs SET state = 'queued', fence = fence + 1, released_at = clock_timestamp()
    FROM picked WHERE jobs.id = picked.id AND picked.concurrency_key IS NULL
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
        self._gate = Gate()
        self._parking = Parking()
        self._unknown = Unknown()
        self._due_at = 0.0
        self._rest_until = 0.0
        self._away = False

    async def run_once(self, connection: asyncpg.Connection[asyncpg.Record]) -> int:
        """Release what is due and has room; return how many jobs. -1 says that jobs wait and have no room."""
        await self._promote(connection)
        if time.monotonic() < self._rest_until:
            return 0
        room = await self._room.measure(connection)
        if room.parked and await self._bring_back(connection, room):
            room = await self._room.measure(connection)
        await self._room.paces.write(connection)
        if not (room.free or room.gated):
            return -1 if room.waiting else 0
        await self._unknown.park(connection, room.lines, room.tasks)
        rows = await self._release(connection, room)
        released = [Claim(*row[:_CLAIM_COLUMNS]) for row in rows]
        self._room.released(released)
        for queue in {job.queue for job in released}:
            await self._put_on_belt(queue, [job for job in released if job.queue == queue])
        return len(released) or (-1 if room.waiting else 0)

    async def _promote(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        if time.monotonic() >= self._due_at:
            await connection.execute(_PROMOTE)
            self._due_at = time.monotonic() + _DUE_INTERVAL_SECONDS

    async def _bring_back(self, connection: asyncpg.Connection[asyncpg.Record], room: Measured) -> int:
        known = await self._unknown.bring_back(connection, room.parked, room.tasks)
        return known + await self._parking.bring_back(connection, room.parked, room.tasks)

    async def _release(self, connection: asyncpg.Connection[asyncpg.Record], room: Measured) -> list[asyncpg.Record]:
        """Release into the room; return the jobs, the highest priority and the oldest first."""
        rows: list[asyncpg.Record] = []
        if room.free:
            rows += await connection.fetch(
                _RELEASE, sorted(room.free), [room.free[q] for q in sorted(room.free)], room.tasks
            )
        if room.gated:
            rows += await self._pass_gate(connection, room)
        rows.sort(key=lambda row: (-row["priority"], row["run_at"], row["id"]))
        return rows

    async def _pass_gate(self, connection: asyncpg.Connection[asyncpg.Record], room: Measured) -> list[asyncpg.Record]:
        passed = await self._gate.release(connection, room.gated, room.tasks)
        keys = [(row["queue"], row["concurrency_key"]) for row in passed.released if row["concurrency_key"] is not None]
        self._parking.released(key for key in keys if key[0] in room.parked)
        self._parking.parked(passed.parked)
        if room.rated:
            self._room.shut(await shut_for(connection, room.rated))
        return passed.released

    async def _put_on_belt(self, queue: str, jobs: Sequence[Claim]) -> None:
        if not jobs:
            return
        with dispatch(Batch(job_destination(queue), [job.traceparent for job in jobs])):
            try:
                await put(self._redis, stream_of(queue), FIELD, [entry_of(job) for job in jobs])
            except (RedisError, OSError) as error:
                self._rest_until = time.monotonic() + _REST_SECONDS
                if not self._away:
                    self._away = True
                    logger.warning("belt_away", queue=queue, jobs=len(jobs), error=repr(error))
            else:
                if self._away:
                    self._away = False
                    logger.info("belt_back", queue=queue)
