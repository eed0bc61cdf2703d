"""A worker takes jobs, and gives back what it will not start.

Owns the claim: one statement for a whole batch, fenced. A delivery that is stale (released again since) or a duplicate
(claimed already) wins nothing. The claim is where an attempt begins and is counted; a job that is handed back unstarted
gets its attempt back.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg

from headrace.jobs.model import Claim

_CLAIM = """
    UPDATE jobs SET state = 'running', attempt = attempt + 1, started_at = clock_timestamp(), worker_id = $3
    FROM unnest($1::uuid[], $2::integer[]) AS c(id, fence)
    WHERE jobs.id = c.id AND jobs.fence = c.fence AND jobs.state = 'queued'
      AND (jobs.expires_at IS NULL OR jobs.expires_at > now())
    RETURNING jobs.id
"""

_RETURN_QUEUED = """
    UPDATE jobs SET state = 'pending', released_at = NULL
    FROM unnest($1::uuid[], $2::integer[]) AS c(id, fence)
    WHERE jobs.id = c.id AND jobs.fence = c.fence AND jobs.state = 'queued'
"""


async def claim(
    connection: asyncpg.Connection[asyncpg.Record], entries: Sequence[Claim], worker_id: UUID
) -> list[Claim]:
    """Claim released jobs for a worker; return those won, in the order given, each with its attempt counted."""
    ids, fences = _keys(entries)
    won = {row["id"] for row in await connection.fetch(_CLAIM, ids, fences, worker_id)}
    return [entry for entry in entries if entry.job_id in won]


async def return_queued(connection: asyncpg.Connection[asyncpg.Record], entries: Sequence[Claim]) -> None:
    """Put released jobs that nobody has claimed back to `pending`, for another worker to get at once."""
    await connection.execute(_RETURN_QUEUED, *_keys(entries))


def _keys(entries: Sequence[Claim]) -> tuple[list[UUID], list[int]]:
    return [entry.job_id for entry in entries], [entry.fence for entry in entries]
