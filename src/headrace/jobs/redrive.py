"""An operator gives a stopped job another chance.

Owns the way from `dead`, `cancelled` or `expired` back to `pending`. Attempts count on, and their errors stay on
record; `max_attempts` is raised by as many as the task declares, though never by more than the job was given
before. A job whose unique key is held by another one by now cannot come back.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from headrace.database.record import Bell
from headrace.errors import ConflictError, NotFoundError
from headrace.transaction import Transaction

_REDRIVE = text("""
    UPDATE jobs SET
        state = 'pending', run_at = now(), released_at = NULL, started_at = NULL, finished_at = NULL, worker_id = NULL,
        progress = NULL, result = NULL, cancel_requested_at = NULL,
        expires_at = CASE WHEN expires_at > now() THEN expires_at END,
        max_attempts = greatest(max_attempts, attempt + least(max_attempts, :attempts))
    WHERE id = :id AND state IN ('dead', 'cancelled', 'expired')
    RETURNING id
""")

_FIND = text("SELECT task, state FROM jobs WHERE id = :id")


async def redrive_job(tx: Transaction, job_id: UUID, *, attempts: int) -> None:
    """Make a stopped job pending again, with up to `attempts` more attempts.

    Raises:
        NotFoundError: there is no such job.
        ConflictError: it has not stopped, or its unique key is taken.

    """
    try:
        redriven = (await tx.connection.execute(_REDRIVE, {"id": job_id, "attempts": attempts})).scalar_one_or_none()
    except IntegrityError as error:
        message = "another unfinished job of this task holds the unique key"
        raise ConflictError(message) from error
    if redriven is None:
        state = await _state_of(tx, job_id)
        message = f"the job is {state}: only a dead, cancelled or expired job can be tried again"
        raise ConflictError(message)
    tx.bells.add(Bell.JOBS)


async def task_of(tx: Transaction, job_id: UUID) -> str:
    """Return the task of a job.

    Raises:
        NotFoundError: there is no such job.

    """
    row = (await tx.connection.execute(_FIND, {"id": job_id})).one_or_none()
    if row is None:
        message = f"there is no job {job_id}"
        raise NotFoundError(message)
    return str(row.task)


async def _state_of(tx: Transaction, job_id: UUID) -> str:
    row = (await tx.connection.execute(_FIND, {"id": job_id})).one_or_none()
    if row is None:
        message = f"there is no job {job_id}"
        raise NotFoundError(message)
    return str(row.state)
