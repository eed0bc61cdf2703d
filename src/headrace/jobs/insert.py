"""Jobs enter the record here, in the caller's transaction.

Owns the one INSERT of jobs: any number of them in one statement, so that a batch of 10,000 costs one round trip.
A call whose `unique_key` is held by an unfinished job of the same task adds nothing and gets that job's id.
Never commit here, and never ring the bell: the transaction does both.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.jobs.call import Call
from headrace.telemetry.propagation import trace_id_of

_INSERT = text("""
    INSERT INTO jobs (id, task, args, queue, state, priority, max_attempts, run_at, expires_at, tags,
                      unique_key, concurrency_key, parent_id, trace_id, traceparent)
    SELECT r.id, r.task, r.args, r.queue,
           CAST(CASE WHEN due.at > now() THEN 'scheduled' ELSE 'pending' END AS job_state),
           r.priority, r.max_attempts, due.at, r.expires_at, coalesce(r.tags, '{}'),
           r.unique_key, r.concurrency_key, r.parent_id, :trace_id, :traceparent
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
             id uuid, task text, args jsonb, queue text, priority smallint, max_attempts integer,
             delay_seconds double precision, run_at timestamptz, expires_at timestamptz, tags text[],
             unique_key text, concurrency_key text, parent_id uuid)
    CROSS JOIN LATERAL (
        SELECT coalesce(r.run_at, now() + make_interval(secs => coalesce(r.delay_seconds, 0)))) AS due(at)
    ON CONFLICT (task, unique_key)
        WHERE unique_key IS NOT NULL AND state IN ('scheduled', 'pending', 'queued', 'running', 'retrying')
        DO NOTHING
    RETURNING id
""")

_HOLDER = text("""
    SELECT id FROM jobs
    WHERE task = :task AND unique_key = :unique_key
      AND state IN ('scheduled', 'pending', 'queued', 'running', 'retrying')
""")


class _Row(msgspec.Struct, frozen=True, omit_defaults=True):
    id: UUID
    task: str
    args: msgspec.Raw
    queue: str
    priority: int
    max_attempts: int
    delay_seconds: float | None
    run_at: str | None
    expires_at: str | None
    tags: tuple[str, ...]
    unique_key: str | None
    concurrency_key: str | None
    parent_id: UUID | None


def _row(identity: UUID, call: Call) -> _Row:
    return _Row(
        id=identity,
        task=call.task,
        args=call.args,
        queue=call.queue,
        priority=call.priority,
        max_attempts=call.max_attempts,
        delay_seconds=call.delay_seconds,
        run_at=call.run_at.isoformat() if call.run_at else None,
        expires_at=call.expires_at.isoformat() if call.expires_at else None,
        tags=call.tags,
        unique_key=call.unique_key,
        concurrency_key=call.concurrency_key,
        parent_id=call.parent_id,
    )


async def insert_jobs(
    connection: AsyncConnection, calls: Sequence[Call], traceparent: str, *, ids: Sequence[UUID]
) -> list[UUID]:
    """Insert one job per call and return their ids in the same order.

    Args:
        connection: the caller's transaction.
        calls: what to enqueue; an empty sequence does nothing.
        traceparent: the W3C trace context that the jobs continue.
        ids: the ids to give, one per call.

    """
    if not calls:
        return []
    given = list(ids)
    rows = msgspec.json.encode([_row(identity, call) for identity, call in zip(given, calls, strict=True)])
    result = await connection.execute(
        _INSERT, {"rows": rows.decode(), "trace_id": trace_id_of(traceparent), "traceparent": traceparent}
    )
    inserted = set(result.scalars())
    if len(inserted) == len(calls):
        return given
    return [
        identity if identity in inserted else await _holder_of(connection, call)
        for identity, call in zip(given, calls, strict=True)
    ]


async def _holder_of(connection: AsyncConnection, call: Call) -> UUID:
    """Return the unfinished job that holds the call's unique key."""
    holder: UUID = (await connection.execute(_HOLDER, {"task": call.task, "unique_key": call.unique_key})).scalar_one()
    return holder
