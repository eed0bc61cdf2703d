"""A worker takes jobs, and gives back what it will not start.

Owns the claim: one statement for a whole batch, fenced. A delivery that is stale (released again since) or a duplicate
(claimed already) wins nothing. The claim is where an attempt begins and is counted, as its queue's start too where that
has a rate; a job that is handed back unstarted gets its attempt back.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg
import msgspec

from headrace.jobs.model import Claim, Key
from headrace.jobs.retry import DEFAULT_MAX_LOSSES

# By the primary key: the state is compared as a text, so that PostgreSQL does not read all jobs in flight by their
# index instead. The starts of a queue with a rate go into its ledger in the same statement: whoever counts sees each
# job either on the belt or in the ledger. The time in the ledger is that of the last start of the batch, so that it is
# never too early.
_CLAIM = """
    WITH won AS (
        UPDATE jobs SET state = 'running', attempt = attempt + 1, started_at = clock_timestamp(), worker_id = $3
        FROM unnest($1::uuid[], $2::integer[]) AS c(id, fence)
        WHERE jobs.id = c.id AND jobs.fence = c.fence AND CAST(jobs.state AS text) = 'queued'
          AND (jobs.expires_at IS NULL OR jobs.expires_at > now())
        RETURNING jobs.id, jobs.queue, jobs.started_at),
    started AS (
        INSERT INTO queue_starts (queue, at, jobs)
        SELECT won.queue, max(won.started_at), count(*)
        FROM won JOIN queues ON queues.name = won.queue AND queues.rate_limit IS NOT NULL
        GROUP BY won.queue)
    SELECT id FROM won
"""

_RETURN_QUEUED = """
    UPDATE jobs SET state = 'pending', released_at = NULL
    FROM unnest($1::uuid[], $2::integer[]) AS c(id, fence)
    WHERE jobs.id = c.id AND jobs.fence = c.fence AND jobs.state = 'queued'
"""

_CLAIMED_BY = f"""
    SELECT id, fence, attempt, max_attempts, trace_id, cancel_requested_at IS NOT NULL,
           coalesce(started_at < clock_timestamp() - interval '2 seconds', true),
           lost, coalesce(CAST(overrides->>'max_losses' AS integer), {DEFAULT_MAX_LOSSES})
    FROM jobs WHERE worker_id = $1 AND state = 'running'
"""  # noqa: S608 - composed of constants


class Claimed(msgspec.Struct, frozen=True):
    """A job that the record says a worker runs."""

    job_id: UUID
    fence: int
    attempt: int
    max_attempts: int
    trace_id: str
    cancel_requested: bool
    long_ago: bool
    """Whether the claim is old enough for its answer to have reached the worker."""
    lost: int = 0
    """How many workers were lost under the job before."""
    max_losses: int = DEFAULT_MAX_LOSSES

    @property
    def key(self) -> Key:
        """Which attempt this is."""
        return self.job_id, self.fence


async def claim(
    connection: asyncpg.Connection[asyncpg.Record], entries: Sequence[Claim], worker_id: UUID
) -> list[Claim]:
    """Claim released jobs for a worker; return those won, in the order given, each with its attempt counted."""
    ids, fences = _keys(entries)
    won = {row["id"] for row in await connection.fetch(_CLAIM, ids, fences, worker_id)}
    return [entry for entry in entries if entry.job_id in won]


async def claimed_by(connection: asyncpg.Connection[asyncpg.Record], worker_id: UUID) -> list[Claimed]:
    """Return what runs under a worker's claim, as the record sees it."""
    return [Claimed(*row.values()) for row in await connection.fetch(_CLAIMED_BY, worker_id)]


async def return_queued(connection: asyncpg.Connection[asyncpg.Record], entries: Sequence[Claim]) -> None:
    """Put released jobs that nobody has claimed back to `pending`, for another worker to get at once."""
    await connection.execute(_RETURN_QUEUED, *_keys(entries))


def _keys(entries: Sequence[Claim]) -> tuple[list[UUID], list[int]]:
    return [entry.job_id for entry in entries], [entry.fence for entry in entries]
