"""What the record says about jobs.

Owns the read side: one job, a page of them, and the value `Job` in which they are shown. Reads never lock and never see
a job half written. Filters by tag, trace and unfinished state have an index. Those by task and queue have none, because
it would cost each job's way through the record more than a tenth: a page looks through a bounded number of jobs, newest
first, and says where to go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, Row, Text, cast, false, func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.database.record import Record
from headrace.database.states import FINISHED, JobState
from headrace.database.tables import job_attempts, job_traces, jobs
from headrace.errors import NotFoundError


class JobError(msgspec.Struct, frozen=True):
    """One attempt that did not succeed."""

    attempt: int
    at: datetime
    type: str
    message: str
    traceback: str
    trace_id: str
    outcome: str
    """`failed`, `timed_out`, `lost` (its worker died), `cancelled` or `rejected` (unreadable arguments or result)."""
    fingerprint: str | None = None
    """The same for failures of one fault; None where there was no exception."""
    release: str | None = None
    """The version of the code that failed; None where it is not known."""


class FormerArgs(msgspec.Struct, frozen=True):
    """Arguments that a job had until it was tried again with others."""

    args: msgspec.Raw
    attempt: int
    """The last attempt that was made with them; 0 where none was."""
    replaced_at: datetime


class Job(msgspec.Struct, frozen=True):
    """A job, as the API shows it; `args`, `result` and `progress` are JSON as it stands on record."""

    id: UUID
    task: str
    args: msgspec.Raw
    queue: str
    state: JobState
    priority: int
    attempt: int
    max_attempts: int
    created_at: datetime
    run_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    progress: msgspec.Raw
    result: msgspec.Raw
    errors: list[JobError]
    former_args: list[FormerArgs]
    """What `args` were before, the oldest first."""
    tags: list[str]
    unique_key: str | None
    concurrency_key: str | None
    parent_id: UUID | None
    trace_id: str


class JobFilter(msgspec.Struct, frozen=True):
    """Which jobs are meant; None does not filter."""

    state: JobState | None = None
    task: str | None = None
    queue: str | None = None
    tag: str | None = None
    trace_id: str | None = None


WINDOW: Final = 20_000
"""How many jobs one page looks through, where no index serves its filter."""

_NULL = msgspec.Raw(b"null")
_FORMER: Final = msgspec.json.Decoder(list[FormerArgs])
_COLUMNS = (
    jobs.c.id,
    jobs.c.task,
    cast(jobs.c.args, Text).label("args"),
    jobs.c.queue,
    jobs.c.state,
    jobs.c.priority,
    jobs.c.attempt,
    jobs.c.max_attempts,
    jobs.c.created_at,
    jobs.c.run_at,
    jobs.c.started_at,
    jobs.c.finished_at,
    jobs.c.expires_at,
    cast(jobs.c.progress, Text).label("progress"),
    cast(jobs.c.result, Text).label("result"),
    cast(jobs.c.former_args, Text).label("former_args"),
    jobs.c.tags,
    jobs.c.unique_key,
    jobs.c.concurrency_key,
    jobs.c.parent_id,
    jobs.c.trace_id,
)


async def job_by_id(record: Record, job_id: UUID) -> Job:
    """Return one job.

    Raises:
        NotFoundError: there is none with this id.

    """
    async with record.engine.connect() as connection:
        found = await _jobs_where(connection, jobs.c.id == job_id, limit=1)
    if not found:
        message = f"there is no job {job_id}"
        raise NotFoundError(message)
    return found[0]


async def jobs_by_ids(connection: AsyncConnection, job_ids: Sequence[UUID]) -> list[Job]:
    """Return the jobs among `job_ids` that exist, newest first."""
    return await _jobs_where(connection, jobs.c.id.in_(job_ids), limit=len(job_ids))


async def page_of_jobs(
    record: Record, chosen: JobFilter, *, limit: int, before: UUID | None = None, window: int = WINDOW
) -> tuple[list[Job], UUID | None]:
    """Return a page of jobs, newest first, and the id before which the next one begins; None at the end.

    A page has at most `limit` jobs. It has fewer, or none, and yet a next one, where the newest `window` jobs were
    looked through and older ones remain.
    """
    async with record.engine.connect() as connection:
        last = await _last_of_window(connection, before, window) if _has_no_index(chosen) else None
        where = [*conditions(chosen, before), *([] if last is None else [jobs.c.id >= last])]
        found = await _jobs_where(connection, *where, limit=limit + 1)
    if len(found) > limit:
        return found[:limit], found[limit - 1].id
    return found, last


async def list_jobs(record: Record, chosen: JobFilter, *, limit: int, before: UUID | None = None) -> list[Job]:
    """Return a page of jobs, newest first, those made before the job `before`."""
    async with record.engine.connect() as connection:
        return await _jobs_where(connection, *conditions(chosen, before), limit=limit)


def conditions(chosen: JobFilter, before: UUID | None = None) -> list[ColumnElement[bool]]:
    """Return the SQL conditions of a filter."""
    found: list[ColumnElement[bool]] = []
    if chosen.state is not None:
        # literally, so that the planner can use the partial index of that state
        found.append(jobs.c.state == literal_column(f"'{chosen.state.value}'::job_state"))
    if chosen.task is not None:
        found.append(jobs.c.task == chosen.task)
    if chosen.queue is not None:
        found.append(jobs.c.queue == chosen.queue)
    if chosen.tag is not None:
        found.append(jobs.c.tags.contains([chosen.tag]))
        found.append(jobs.c.tags != [])
    if chosen.trace_id is not None:
        found.append(_of_trace(chosen.trace_id))
    if before is not None:
        found.append(jobs.c.id < before)
    return found


def _of_trace(trace_id: str) -> ColumnElement[bool]:
    try:
        trace = UUID(hex=trace_id)
    except ValueError:
        return false()  # nothing has such a trace
    return jobs.c.id.in_(select(job_traces.c.job_id).where(job_traces.c.trace_id == trace))


def _has_no_index(chosen: JobFilter) -> bool:
    """Tell whether a search would walk along the primary key, through any number of jobs that are not meant."""
    if chosen.tag is not None or chosen.trace_id is not None:
        return False
    filtered = chosen.task is not None or chosen.queue is not None
    return chosen.state is JobState.SUCCEEDED or (filtered and (chosen.state is None or chosen.state in FINISHED))


async def _last_of_window(connection: AsyncConnection, before: UUID | None, window: int) -> UUID | None:
    """Return the oldest of the jobs that are looked through, None where the record has no more than these."""
    query = select(jobs.c.id).order_by(jobs.c.id.desc()).offset(window).limit(1)
    found: UUID | None = await connection.scalar(query if before is None else query.where(jobs.c.id < before))
    return found


async def _jobs_where(connection: AsyncConnection, *where: ColumnElement[bool], limit: int) -> list[Job]:
    query = select(*_COLUMNS).where(*where).order_by(jobs.c.id.desc()).limit(limit)
    rows = (await connection.execute(query)).all()
    errors = await _errors_of(connection, [row.id for row in rows])
    return [_job(row, errors.get(row.id, [])) for row in rows]


async def _errors_of(connection: AsyncConnection, job_ids: Sequence[UUID]) -> dict[UUID, list[JobError]]:
    if not job_ids:
        return {}
    query = (
        select(job_attempts)
        .where(job_attempts.c.job_id == func.any(list(job_ids)))
        .order_by(job_attempts.c.job_id, job_attempts.c.fence)
    )
    found: dict[UUID, list[JobError]] = {}
    for row in await connection.execute(query):
        error = (row.attempt, row.at, row.type, row.message, row.traceback, row.trace_id, row.outcome)
        found.setdefault(row.job_id, []).append(JobError(*error, row.fingerprint, row.release))
    return found


def _job(row: Row[Any], errors: list[JobError]) -> Job:
    values = row._asdict()
    for name in ("args", "progress", "result"):
        values[name] = _NULL if values[name] is None else msgspec.Raw(values[name].encode())
    values["former_args"] = _FORMER.decode(values["former_args"] or "[]")
    return Job(**values, errors=errors)
