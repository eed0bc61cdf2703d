"""Why a job is not running, as of this moment, and when it may start.

Owns the answer. All that it says is read from one snapshot, so the reasons fit together; a list without reasons means
that nothing is in the way. The forecast rests on the same facts. Reads lock nothing, and cost a few milliseconds
however many jobs there are.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import Row, text

from headrace.database.record import Record
from headrace.database.states import JobState
from headrace.errors import NotFoundError
from headrace.jobs.forecast import Forecast, Line, Rated, forecast
from headrace.jobs.limits import LimitStanding, standing_limits
from headrace.jobs.parents import Parent, parents_of
from headrace.jobs.reasons import Facts, LiveWorker, Reason, reasons_of

MOST_AHEAD: Final = 100_000
"""How far the count of the jobs ahead goes."""
_MOST_PARENTS: Final = 100

# Plan: the partial indexes jobs_pending, jobs_parked and jobs_in_flight, each read within the job's queue.
_READ = text("""
    SELECT now() AS now, j.state, j.queue, j.task, j.run_at, j.expires_at, j.cancel_requested_at, j.waits_for,
           coalesce(q.paused, false) AS paused, q.paused_at, q.paused_by, q.pace,
           coalesce(l.expires_at > now(), false) AS relay_leads, nullif(l.expires_at, '-infinity') AS relay_until,
           (SELECT count(*) FROM (
                SELECT FROM jobs o
                WHERE o.queue = j.queue AND o.state = 'pending' AND NOT o.parked AND o.id <> j.id
                  AND (o.priority, j.run_at, j.id) > (j.priority, o.run_at, o.id)
                LIMIT :most) AS waiting) AS pending_ahead,
           (SELECT count(*) FROM jobs o
            WHERE o.queue = j.queue AND o.state = 'pending' AND o.concurrency_key = j.concurrency_key AND o.id <> j.id
              AND o.parked AND (o.priority, j.run_at, j.id) > (j.priority, o.run_at, o.id)) AS key_ahead,
           (SELECT count(*) FROM jobs o
            WHERE o.queue = j.queue AND o.state = 'queued' AND o.id <> j.id
              AND (j.state <> 'queued' OR (o.released_at, o.id) < (j.released_at, j.id))) AS queued_ahead,
           (SELECT count(*) FROM jobs o WHERE o.queue = j.queue AND o.state = 'running') AS running,
           (SELECT count(*) FROM held_keys k JOIN waiting_events w ON w.subscription = k.subscription AND w.key = k.key
            WHERE k.job_id = j.id AND j.state NOT IN ('succeeded', 'cancelled', 'expired')) AS behind
    FROM jobs j LEFT JOIN queues q ON q.name = j.queue LEFT JOIN leases l ON l.name = 'relay'
    WHERE j.id = :id
""")

_WORKERS = text("""
    SELECT id, host, pid, queues, slots, tasks = '{}' OR :task = ANY(tasks) AS knows_task
    FROM processes WHERE role = 'worker' AND expires_at > now() ORDER BY id
""")


class Explanation(msgspec.Struct, frozen=True):
    """Why a job is not running."""

    state: JobState
    reasons: list[Reason]
    ahead: int
    """How many jobs of the queue go before it; counted to 100,000."""
    forecast: Forecast | None
    """When it may start; null for a job that runs or has finished."""
    behind: int = 0
    """How many events of its key wait until it has succeeded, or is cancelled."""


async def explain_job(record: Record, job_id: UUID) -> Explanation:
    """Explain why a job is not running.

    Raises:
        NotFoundError: there is no such job.

    """
    async with record.engine.connect() as opened:
        connection = await opened.execution_options(isolation_level="REPEATABLE READ")
        row = (await connection.execute(_READ, {"id": job_id, "most": MOST_AHEAD})).one_or_none()
        if row is None:
            message = f"there is no job {job_id}"
            raise NotFoundError(message)
        limits = await standing_limits(connection, job_id)
        parents = await parents_of(connection, job_id, awaited=True, limit=_MOST_PARENTS) if row.waits_for else []
        workers = [LiveWorker(*one) for one in await connection.execute(_WORKERS, {"task": row.task})]
    facts = _facts(row, limits, parents, workers)
    expected = forecast(_line(row, facts)) if facts.waits else None
    return Explanation(facts.state, list(reasons_of(facts)), facts.ahead, expected, row.behind)


def _facts(row: Row[Any], limits: LimitStanding, parents: list[Parent], workers: list[LiveWorker]) -> Facts:
    state = JobState(row.state)
    waits = state in {JobState.SCHEDULED, JobState.PENDING, JobState.RETRYING}
    queued = row.queued_ahead if waits or state is JobState.QUEUED else 0
    return Facts(
        now=row.now,
        state=state,
        queue=row.queue,
        task=row.task,
        run_at=row.run_at,
        expires_at=row.expires_at,
        cancel_requested_at=row.cancel_requested_at,
        waits_for=row.waits_for if waits else 0,
        paused=row.paused,
        paused_at=row.paused_at,
        paused_by=row.paused_by,
        relay_leads=row.relay_leads,
        relay_since=row.relay_until,
        ahead=queued + (row.pending_ahead + row.key_ahead if waits else 0),
        limits=limits,
        parents=parents,
        workers=workers,
    )


def _line(row: Row[Any], facts: Facts) -> Line:
    limits = facts.limits
    slots = sum(worker.slots for worker in facts.able)
    in_line = not facts.is_not_due and not facts.waits_for and facts.ahead < MOST_AHEAD
    return Line(
        position=facts.ahead + 1 if in_line else None,
        ahead=row.pending_ahead if facts.state is not JobState.QUEUED else 0,
        in_flight=row.queued_ahead + row.running,
        slots=slots if limits.concurrency is None else min(slots, limits.concurrency),
        pace=row.pace,
        due_in_seconds=(facts.run_at - facts.now).total_seconds() if facts.is_not_due else 0.0,
        rated=_rated(facts),
        ahead_of_key=_ahead_of_key(row, limits) if facts.state is not JobState.QUEUED else 0,
        unknowable=_unknowable(row, facts),
    )


def _rated(facts: Facts) -> Rated | None:
    rate, next_at = facts.limits.rate, facts.limits.next_at
    if rate is None or facts.state is JobState.QUEUED:
        return None
    opens_in = 0.0 if next_at is None else max(0.0, (next_at - facts.now).total_seconds())
    return Rated(rate.limit, rate.per_seconds, opens_in)


def _ahead_of_key(row: Row[Any], limits: LimitStanding) -> int:
    """Return how many jobs with its concurrency key must end before a job may start."""
    return 0 if limits.key_limit is None else max(0, row.key_ahead + len(limits.holders) + 1 - limits.key_limit)


def _unknowable(row: Row[Any], facts: Facts) -> str | None:
    """Return why nothing can be said about the start of a job; None where something can."""
    if facts.waits_for:
        return "its parents decide"
    if facts.paused and facts.state is not JobState.QUEUED:
        return "the queue is paused"
    if not facts.able:
        return "no live worker can take it"
    if not facts.relay_leads and facts.state is not JobState.QUEUED:
        return "no relay leads"
    if row.pending_ahead >= MOST_AHEAD:
        return f"{MOST_AHEAD} jobs or more go first"
    return None
