"""The gate: jobs of queues with limits, and jobs with concurrency keys, are counted before they are released.

Owns the proof that no limit is exceeded, whoever else releases at this moment. A transaction first locks the rows of
the queues; so of two leaders (one may only have been asleep) one comes after the other. Its second statement, whose
snapshot is younger than the lock, counts and releases. Only a release makes more jobs hold something, and every claim
is seen as either on the belt or started, so what was counted can only have become less since.
- Concurrency: queued and running jobs, and those released now, are at most the limit.
- Rate: so are the starts of the last window, the jobs on the belt, which may start at any moment, and those released
  now. Hence no window of that length, wherever it begins, ever holds more starts.
- Keys: as concurrency, for each key of a queue. Jobs that are met while their key is busy are parked, so that each is
  met once and not at every pass.
A queue whose row somebody else has locked, because its limits or its pause are being changed, waits for the next pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import asyncpg
import msgspec

from headrace.relay.parking import KeyOf

_FIRST_DEPTH = 100
_LAST_DEPTH = 1000

_LOCK = "SELECT name FROM queues WHERE name = ANY($1::text[]) AND NOT paused ORDER BY name FOR UPDATE SKIP LOCKED"

# Each queue is read from its front, as far as it may release and a bounded number of jobs beyond. `nth` counts the jobs
# that may go, in the order of release: what is met before the last of them and may not go is parked. For its key's turn
# a job lines up behind those in flight, so that no join is needed, for which the planner would guess. MATERIALIZED: a
# queue is counted once; PostgreSQL would else count it anew for every job that is met (20 ms of a pass that took 25).
# The state as text, at the end: so that jobs_pending, which looks tiny while its statistics are of an empty queue, is
# not read as a whole for each job (with a backlog of 60,000, 60 ms of a pass that took 70).
RELEASE = """
    WITH given AS MATERIALIZED (
        SELECT q.name AS queue, room.depth, coalesce(q.per_key_concurrency, 1) AS per_key,
               least(room.n,
                     CASE WHEN q.concurrency IS NOT NULL THEN q.concurrency - (
                         SELECT count(*) FROM jobs WHERE queue = q.name AND state IN ('queued', 'running')) END,
                     CASE WHEN q.rate_limit IS NOT NULL THEN q.rate_limit - (
                         SELECT coalesce(sum(jobs), 0) FROM queue_starts
                         WHERE queue = q.name AND at > now() - make_interval(secs => q.rate_per_seconds)) - (
                         SELECT count(*) FROM jobs WHERE queue = q.name AND state = 'queued') END) AS allowed
        FROM unnest($1::text[], $2::integer[], $3::integer[]) AS room(queue, n, depth)
        JOIN queues q ON q.name = room.queue),
    met AS (
        SELECT given.queue, given.allowed, given.per_key, j.id, j.priority, j.run_at, j.concurrency_key AS key
        FROM given CROSS JOIN LATERAL (
            SELECT id, priority, run_at, concurrency_key FROM jobs
            WHERE state = 'pending' AND NOT parked AND queue = given.queue AND run_at <= now()
              AND task = ANY($4::text[])
            ORDER BY priority DESC, run_at, id
            LIMIT greatest(given.allowed, 0) + given.depth) AS j
        WHERE given.allowed > 0),
    lined_up AS (
        SELECT queue, allowed, per_key, id, priority, run_at, key, true AS waits FROM met
        UNION ALL
        SELECT queue, 0, 0, id, priority, run_at, concurrency_key, false FROM jobs
        WHERE queue = ANY($1::text[]) AND concurrency_key IS NOT NULL AND NOT parked
          AND state IN ('queued', 'running')),
    ranked AS (
        SELECT *, key IS NULL OR row_number() OVER (
                   PARTITION BY queue, key ORDER BY waits, priority DESC, run_at, id) <= per_key AS goes
        FROM lined_up),
    placed AS (
        SELECT *, count(*) FILTER (WHERE goes) OVER (PARTITION BY queue ORDER BY priority DESC, run_at, id) AS nth
        FROM ranked WHERE waits),
    chosen AS (
        SELECT j.id, placed.goes, placed.per_key
        FROM placed CROSS JOIN LATERAL (
            SELECT id FROM jobs WHERE id = placed.id AND CAST(state AS text) = 'pending' AND NOT parked
            FOR UPDATE SKIP LOCKED) AS j
        WHERE nth <= allowed AND (placed.goes OR nth < allowed))
    UPDATE jobs SET
        state = CASE WHEN goes THEN 'queued' ELSE state END,
        parked = NOT goes,
        fence = CASE WHEN goes THEN fence + 1 ELSE fence END,
        released_at = CASE WHEN goes THEN clock_timestamp() ELSE released_at END
    FROM chosen WHERE jobs.id = chosen.id
    RETURNING jobs.id, fence, attempt + 1, max_attempts, task, queue, CASE WHEN goes THEN args::text END, traceparent,
              created_at, overrides::text, priority, run_at, concurrency_key, goes, per_key
"""


class Passed(msgspec.Struct, frozen=True):
    """What a pass through the gate has done."""

    released: list[asyncpg.Record]
    parked: dict[KeyOf, int]
    """The keys of jobs that were parked, each with how many jobs at least hold it."""


class Gate:
    """Releases from queues with limits or keys; remembers how deep it must look into each."""

    def __init__(self) -> None:
        self._depths: dict[str, int] = {}

    async def release(
        self, connection: asyncpg.Connection[asyncpg.Record], room: Mapping[str, int], tasks: Sequence[str]
    ) -> Passed:
        """Release what the limits allow, up to `room` of each queue, and park what has a busy key."""
        async with connection.transaction(isolation="read_committed"):
            queues = [row["name"] for row in await connection.fetch(_LOCK, sorted(room))]
            counts = [room[queue] for queue in queues]
            depths = [self._depths.get(queue, _FIRST_DEPTH) for queue in queues]
            rows = await connection.fetch(RELEASE, queues, counts, depths, tasks)
        self._learn_depths(queues, rows)
        released = [row for row in rows if row["goes"]]
        parked = {(row["queue"], row["concurrency_key"]): row["per_key"] for row in rows if not row["goes"]}
        return Passed(released, parked)

    def _learn_depths(self, queues: Sequence[str], rows: Sequence[asyncpg.Record]) -> None:
        """Look deeper where busy keys were met: to park many at once costs less than to meet them one by one."""
        busy = {row["queue"] for row in rows if not row["goes"]}
        for queue in queues:
            if queue in busy:
                self._depths[queue] = min(self._depths.get(queue, _FIRST_DEPTH) * 4, _LAST_DEPTH)
            else:
                self._depths.pop(queue, None)
