"""Jobs enter the record here, in the caller's transaction.

Owns the one INSERT of jobs: any number of them in one statement, so that a batch of 10,000 costs one round trip.
A call whose `unique_key` is held, by an unfinished job of the same task or for a time, adds nothing and gets that job's
id.
Never commit here, and never ring the bell: the transaction does both. `insert_at_once` alone is a transaction of its
own, for callers whose whole transaction is this one statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.database.states import JobState
from headrace.jobs.call import Call, Overrides
from headrace.jobs.unique import Wanted, hold_keys, pass_on
from headrace.telemetry.propagation import trace_id_of

_SQL: Final = """
    WITH placed AS (
        INSERT INTO jobs (id, task, args, queue, state, priority, max_attempts, run_at, expires_at, tags,
                          unique_key, concurrency_key, parent_id, trace_id, traceparent, moved_to, moved_at,
                          attempt, finished_at, waits_for, watched, on_dead, retention_seconds, overrides,
                          delay_seconds)
        SELECT r.id, r.task, r.args, r.queue, first.state,
               r.priority, r.max_attempts, due.at, r.expires_at, coalesce(r.tags, '{}'),
               r.unique_key, r.concurrency_key, r.parent_id, r.trace_id, r.traceparent,
               ARRAY[first.state], ARRAY[clock_timestamp()],
               CASE WHEN r.born IS NULL THEN 0 ELSE 1 END, CASE WHEN r.born = 'dead' THEN now() END,
               coalesce(r.waits_for, 0), coalesce(r.watched, r.on_dead IS NOT NULL), r.on_dead, r.retention_seconds,
               r.overrides, CASE WHEN r.waits_for > 0 THEN r.delay_seconds END
        FROM jsonb_to_recordset(CAST($1 AS jsonb)) AS r(
                 id uuid, task text, args jsonb, queue text, priority smallint, max_attempts integer,
                 delay_seconds double precision, run_at timestamptz, expires_at timestamptz, tags text[],
                 unique_key text, concurrency_key text, parent_id uuid, trace_id text, traceparent text,
                 born job_state, waits_for integer, watched boolean, on_dead text, retention_seconds double precision,
                 overrides jsonb)
        CROSS JOIN LATERAL (
            SELECT coalesce(r.run_at, now() + make_interval(secs => coalesce(r.delay_seconds, 0)))) AS due(at)
        CROSS JOIN LATERAL (
            SELECT coalesce(r.born, CAST(CASE WHEN due.at > now() OR r.waits_for > 0 THEN 'scheduled'
                                              ELSE 'pending' END AS job_state))) AS first(state)
        ON CONFLICT (task, unique_key)
            WHERE unique_key IS NOT NULL AND state IN ('scheduled', 'pending', 'queued', 'running', 'retrying')
            DO NOTHING
        RETURNING id, state, created_at, run_at, trace_id),
    traced AS (INSERT INTO job_traces (trace_id, job_id) SELECT CAST(trace_id AS uuid), id FROM placed)
    SELECT id, state, created_at, run_at FROM placed
"""
_INSERT = text(_SQL.replace("$1", ":rows"))

_HOLDER = text("""
    SELECT id FROM jobs
    WHERE task = :task AND unique_key = :unique_key
      AND state IN ('scheduled', 'pending', 'queued', 'running', 'retrying')
""")


class Placed(msgspec.Struct, frozen=True):
    """Where a new job stands on record."""

    id: UUID
    state: JobState
    created_at: datetime
    run_at: datetime


class NewJob(msgspec.Struct, frozen=True):
    """A call with the id that its job gets and the W3C trace context that it continues."""

    id: UUID
    call: Call
    traceparent: str
    waits_for: int = 0
    """How many parents it waits for."""
    watched: bool = False
    """Whether others wait for its end."""


class _Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: UUID
    task: str
    args: msgspec.Raw
    queue: str
    priority: int
    max_attempts: int
    delay_seconds: float | None = None
    run_at: str | None = None
    expires_at: str | None = None
    tags: tuple[str, ...] = ()
    unique_key: str | None = None
    concurrency_key: str | None = None
    parent_id: UUID | None = None
    trace_id: str
    traceparent: str
    born: JobState | None = None
    waits_for: int = 0
    watched: bool | None = None
    on_dead: str | None = None
    retention_seconds: float | None = None
    overrides: Overrides | None = None


def _row(job: NewJob) -> _Row:
    call = job.call
    return _Row(
        id=job.id,
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
        trace_id=trace_id_of(job.traceparent),
        traceparent=job.traceparent,
        born=call.born,
        waits_for=job.waits_for,
        watched=job.watched or None,
        on_dead=call.on_dead,
        retention_seconds=call.retention_seconds,
        overrides=call.overrides,
    )


async def insert_at_once(connection: asyncpg.Connection[asyncpg.Record], jobs: Sequence[NewJob]) -> dict[UUID, Placed]:
    """Insert jobs of any number of callers and commit; return where each stands, none for those that add nothing."""
    rows = msgspec.json.encode([_row(job) for job in jobs]).decode()
    return {row[0]: Placed(row[0], JobState(row[1]), row[2], row[3]) for row in await connection.fetch(_SQL, rows)}


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
    return await insert_new_jobs(
        connection, [NewJob(identity, call, traceparent) for identity, call in zip(ids, calls, strict=True)]
    )


async def insert_new_jobs(connection: AsyncConnection, jobs: Sequence[NewJob]) -> list[UUID]:
    """Insert jobs, each with a trace of its own, in the caller's transaction; return their ids in the same order."""
    held = await hold_keys(connection, [_wanted(job) for job in jobs if job.call.unique_seconds is not None])
    new = [job for job in jobs if held.get(job.id, job.id) == job.id]
    placed = held | await _placed(connection, new) if new else held
    passed_on = {(job.call.task, str(job.call.unique_key)): placed[job.id] for job in new if job.id in held}
    await pass_on(connection, {key: job_id for key, job_id in passed_on.items() if job_id not in held})
    return [placed.get(placed[job.id], placed[job.id]) for job in jobs]


def _wanted(job: NewJob) -> Wanted:
    return Wanted(job.call.task, str(job.call.unique_key), job.id, job.call.unique_seconds or 0.0)


async def _placed(connection: AsyncConnection, jobs: Sequence[NewJob]) -> dict[UUID, UUID]:
    """Insert jobs; return for each the one that stands for it: itself, or the unfinished one that has its key."""
    inserted = await _inserted(connection, jobs)
    holders: dict[tuple[str, str | None], UUID] = {}  # a key is asked for once, however often the batch names it
    for job in jobs:
        key = (job.call.task, job.call.unique_key)
        if job.id not in inserted and key not in holders:
            holders[key] = await _held(connection, job)
    return {job.id: job.id if job.id in inserted else holders[job.call.task, job.call.unique_key] for job in jobs}


async def _inserted(connection: AsyncConnection, jobs: Sequence[NewJob]) -> set[UUID]:
    rows = msgspec.json.encode([_row(job) for job in jobs]).decode()
    return set((await connection.execute(_INSERT, {"rows": rows})).scalars())


async def _held(connection: AsyncConnection, job: NewJob) -> UUID:
    """Return the unfinished job that holds the call's unique key; if it has just finished, the new one after all."""
    while True:
        place = {"task": job.call.task, "unique_key": job.call.unique_key}
        holder: UUID | None = (await connection.execute(_HOLDER, place)).scalar_one_or_none()
        if holder is not None:
            return holder
        if await _inserted(connection, [job]):
            return job.id
