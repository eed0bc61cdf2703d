"""Why a job is not running, as of this moment.

Owns the answer: the codes that hold now, each with a sentence for a person, and how many jobs go before this one.
All is read in one statement, so the reasons fit together. An empty list means that nothing is in the way. Never
guess: a code appears only where the record shows its cause.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import Row, text

from headrace.database.record import Record
from headrace.database.states import FINISHED, JobState
from headrace.errors import NotFoundError

MOST_AHEAD: Final = 10_000
"""How far the count of the jobs ahead goes."""

_READ = text("""
    SELECT j.state, j.queue, j.task, j.run_at, j.priority, j.run_at > now() AS not_due,
           coalesce((SELECT paused FROM queues WHERE name = j.queue), false) AS paused,
           (SELECT count(*) FROM processes p WHERE p.role = 'worker' AND p.expires_at > now()
                AND (p.queues IS NULL OR j.queue = ANY(p.queues))) AS workers,
           (SELECT count(*) FROM processes p WHERE p.role = 'worker' AND p.expires_at > now()
                AND (p.queues IS NULL OR j.queue = ANY(p.queues))
                AND (p.tasks = '{}' OR j.task = ANY(p.tasks))) AS able,
           (SELECT count(*) FROM (
                SELECT FROM jobs o
                WHERE o.queue = j.queue AND o.state = 'pending' AND NOT o.parked
                  AND (o.priority, j.run_at, j.id) > (j.priority, o.run_at, o.id)
                LIMIT :most) AS waiting) AS pending_ahead,
           (SELECT count(*) FROM (
                SELECT FROM jobs o
                WHERE o.queue = j.queue AND o.state = 'queued' AND o.id <> j.id
                  AND (j.state <> 'queued' OR (o.released_at, o.id) < (j.released_at, j.id))
                LIMIT :most) AS on_the_belt) AS queued_ahead
    FROM jobs j WHERE j.id = :id
""")


class Code(StrEnum):
    """Why a job is not running."""

    NOT_DUE = "not_due"
    QUEUE_PAUSED = "queue_paused"
    NO_WORKER = "no_worker"
    BEHIND_OTHERS = "behind_others"
    FINISHED = "finished"


class Reason(msgspec.Struct, frozen=True):
    """One reason, and what it means here."""

    code: Code
    message: str


class Explanation(msgspec.Struct, frozen=True):
    """Why a job is not running."""

    state: JobState
    reasons: list[Reason]
    ahead: int
    """How many jobs of the queue go before it; counted to 10,000."""


async def explain_job(record: Record, job_id: UUID) -> Explanation:
    """Explain why a job is not running.

    Raises:
        NotFoundError: there is no such job.

    """
    async with record.engine.connect() as connection:
        row = (await connection.execute(_READ, {"id": job_id, "most": MOST_AHEAD})).one_or_none()
    if row is None:
        message = f"there is no job {job_id}"
        raise NotFoundError(message)
    state = JobState(row.state)
    waits = state not in FINISHED and state is not JobState.RUNNING
    return Explanation(state, list(_reasons(row, state)), _ahead(row, state) if waits else 0)


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _ahead(row: Row[Any], state: JobState) -> int:
    if state is JobState.QUEUED:
        return int(row.queued_ahead)
    return min(MOST_AHEAD, int(row.pending_ahead) + int(row.queued_ahead))


def _reasons(row: Row[Any], state: JobState) -> Iterator[Reason]:
    if state is JobState.RUNNING:
        return
    if state in FINISHED:
        yield Reason(Code.FINISHED, f"the job is {state}")
        return
    if row.not_due and state in {JobState.SCHEDULED, JobState.RETRYING}:
        what = "its next attempt" if state is JobState.RETRYING else "it"
        yield Reason(Code.NOT_DUE, f"{what} is due at {_written(row.run_at)}")
    if row.paused and state is not JobState.QUEUED:
        yield Reason(Code.QUEUE_PAUSED, f"the queue {row.queue} is paused")
    if not row.workers:
        yield Reason(Code.NO_WORKER, f"no worker that is alive serves the queue {row.queue}")
    elif not row.able:
        yield Reason(Code.NO_WORKER, f"no worker that is alive knows the task {row.task}")
    ahead = _ahead(row, state)
    if ahead and not row.not_due:
        yield Reason(Code.BEHIND_OTHERS, f"{ahead} jobs of the queue {row.queue} go first")
