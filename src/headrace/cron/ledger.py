"""The statements of a tick: which schedules are due, what was fired last, what is decided now.

Owns the reads and writes of `schedules` and `schedule_runs` while schedules fire. Everything happens on the connection
of the caller's transaction, which also enqueues the jobs. The primary key of the ledger (schedule, due time) is the one
guard against firing twice; the row locks only spare clocks from doing the same work. Never write a due time without
saying what became of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.cron.policy import Decision

SCHEDULES: Final = 50
"""How many schedules are fired in one transaction."""

_LOSE_IF_STOPPED: Final = text("SET LOCAL idle_in_transaction_session_timeout = '3s'")

# Plan: index scan of schedules_due, whose rows are few unless clocks were away.
_TAKE: Final = text("""
    SELECT name, cron, timezone, task, CAST(args AS text) AS args, misfire, overlap, next_due_at, now() AS now
    FROM schedules
    WHERE enabled AND next_due_at <= now()
      AND task = ANY (CAST(:tasks AS text[])) AND name <> ALL (CAST(:seen AS text[]))
    ORDER BY next_due_at LIMIT :limit FOR UPDATE SKIP LOCKED
""")

_LAST: Final = text("""
    SELECT s.name, j.id AS job_id, j.traceparent,
           j.state IN ('scheduled', 'pending', 'queued', 'running', 'retrying') AS unfinished
    FROM unnest(CAST(:names AS text[])) AS s(name)
    CROSS JOIN LATERAL (
        SELECT r.job_id FROM schedule_runs r
        WHERE r.schedule = s.name AND r.job_id IS NOT NULL ORDER BY r.due_at DESC LIMIT 1) AS run
    JOIN jobs j ON j.id = run.job_id
""")

_WRITE: Final = text("""
    INSERT INTO schedule_runs (schedule, due_at, outcome, reason, job_id)
    SELECT d.schedule, d.due_at, d.outcome, d.reason, d.job_id
    FROM unnest(CAST(:schedules AS text[]), CAST(:times AS timestamptz[]), CAST(:outcomes AS text[]),
                CAST(:reasons AS text[]), CAST(:jobs AS uuid[])) AS d(schedule, due_at, outcome, reason, job_id)
    ON CONFLICT DO NOTHING RETURNING job_id
""")

_JOIN: Final = text("""
    UPDATE schedule_runs SET job_id = :job_id, reason = :reason WHERE schedule = :schedule AND due_at = :due_at
""")

_ADVANCE: Final = text("""
    UPDATE schedules SET next_due_at = n.next_due_at
    FROM unnest(CAST(:names AS text[]), CAST(:times AS timestamptz[])) AS n(name, next_due_at)
    WHERE schedules.name = n.name
""")


class Taken(msgspec.Struct, frozen=True):
    """A due schedule, locked by this transaction."""

    name: str
    cron: str
    timezone: str
    task: str
    args: str
    misfire: str
    overlap: str
    next_due_at: datetime
    now: datetime


class LastFire(msgspec.Struct, frozen=True):
    """The job of a schedule's last fire, as far as it is still on record."""

    job_id: UUID
    traceparent: str
    unfinished: bool


class Row(NamedTuple):
    """What the ledger is to say of a due time."""

    schedule: Taken
    decision: Decision


class Won(NamedTuple):
    """What the ledger let this clock decide: how many due times, and the jobs that it is to enqueue."""

    number: int
    jobs: frozenset[UUID]


async def take_due(connection: AsyncConnection, *, tasks: Collection[str], seen: Collection[str]) -> list[Taken]:
    """Lock the longest due schedules of these tasks that no other clock has in its hands and this one has not seen.

    A process that is stopped with the locks loses them, and its transaction, after three seconds.
    """
    await connection.execute(_LOSE_IF_STOPPED)
    parameters = {"tasks": sorted(tasks), "seen": sorted(seen), "limit": SCHEDULES}
    return [Taken(*row) for row in await connection.execute(_TAKE, parameters)]


async def last_fires(connection: AsyncConnection, names: Sequence[str]) -> dict[str, LastFire]:
    """Return the last fire of each schedule that has one; ask after the locks are taken, to see what others did."""
    if not names:
        return {}
    rows = await connection.execute(_LAST, {"names": names})
    return {name: LastFire(*rest) for name, *rest in rows}


async def write(connection: AsyncConnection, rows: Sequence[Row]) -> Won:
    """Write the ledger; what is on it already stays, and was not this clock's to decide."""
    if not rows:
        return Won(0, frozenset())
    decisions = [row.decision for row in rows]
    written = await connection.execute(
        _WRITE,
        {
            "schedules": [row.schedule.name for row in rows],
            "times": [decision.due_at for decision in decisions],
            "outcomes": [decision.outcome.value for decision in decisions],
            "reasons": [decision.reason for decision in decisions],
            "jobs": [decision.job_id for decision in decisions],
        },
    )
    jobs = list(written.scalars())
    return Won(len(jobs), frozenset(job_id for job_id in jobs if job_id is not None))


async def join(connection: AsyncConnection, schedule: str, due_at: datetime, *, job_id: UUID) -> None:
    """Say that a fire added no job, because another one holds its call's unique key."""
    reason = f"joined: the unfinished job {job_id} holds the unique key"
    parameters = {"schedule": schedule, "due_at": due_at, "job_id": job_id, "reason": reason}
    await connection.execute(_JOIN, parameters)


async def advance(connection: AsyncConnection, next_due: Mapping[str, datetime | None]) -> None:
    """Set when each schedule is due next; None stops it."""
    if next_due:
        await connection.execute(_ADVANCE, {"names": list(next_due), "times": list(next_due.values())})
