"""An operator gives a stopped job another chance.

Owns the way from `dead`, `cancelled` or `expired` back to `pending`, or to `scheduled` where the job still waits for
its parents. Attempts count on, and their errors stay on record; losses count from nought. Other arguments may be given:
those of before are kept, with the number of the last attempt that was made with them. A job whose unique key is held by
another one by now cannot come back. Never check arguments here: only who knows the task can.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import Row, text
from sqlalchemy.exc import IntegrityError

from headrace.database.record import Bell
from headrace.errors import ConflictError, NotFoundError
from headrace.jobs.unique import take_over
from headrace.transaction import Transaction

REVIVED: Final = """
    state = CAST(CASE WHEN waits_for > 0 THEN 'scheduled' ELSE 'pending' END AS job_state), run_at = now(),
    released_at = NULL, started_at = NULL, finished_at = NULL, worker_id = NULL, progress = NULL, result = NULL,
    cancel_requested_at = NULL, lost = 0, forget_at = NULL,
    expires_at = CASE WHEN expires_at > now() THEN expires_at END
"""
"""What every redrive sets, of one job or of many."""

_REDRIVE = text(f"""
    UPDATE jobs SET {REVIVED},
        max_attempts = coalesce(attempt + CAST(:max_attempts AS integer),
                                greatest(max_attempts, attempt + least(max_attempts, :attempts))),
        args = coalesce(CAST(:args AS jsonb), args),
        former_args = CASE WHEN CAST(:args AS jsonb) <> args
            THEN coalesce(former_args, '[]') || jsonb_build_array(
                jsonb_build_object('args', args, 'attempt', attempt, 'replaced_at', now()))
            ELSE former_args END
    WHERE id = :id AND state IN ('dead', 'cancelled', 'expired')
    RETURNING id
""")  # noqa: S608 - composed of constants

_FIND = text("SELECT task, state, unique_key FROM jobs WHERE id = :id")


class Changes(msgspec.Struct, frozen=True):
    """What a redriven job has otherwise than before; None keeps it."""

    args: msgspec.Raw | None = None
    """Its arguments as JSON, checked against its task: `task.call(…).args` is."""
    max_attempts: int | None = None
    """How many attempts more it gets; as many as its task declares, though never more than before, where not given."""


_NO_CHANGES: Final = Changes()


async def redrive_job(tx: Transaction, job_id: UUID, *, attempts: int, changes: Changes = _NO_CHANGES) -> None:
    """Make a stopped job pending again.

    Args:
        tx: the transaction in which it happens.
        job_id: which job.
        attempts: how many attempts its task declares.
        changes: what is to be otherwise than before.

    Raises:
        NotFoundError: there is no such job.
        ConflictError: it has not stopped, or its unique key is taken.

    Example:
        >>> async with transaction(record) as tx:
        ...     await redrive_job(tx, job_id, attempts=3, changes=Changes(args=greet.call("Ada").args))

    """
    job = await _found(tx, job_id)
    if job.unique_key is not None:
        await take_over(tx.connection, job.task, job.unique_key, job_id)
    parameters = {
        "id": job_id,
        "attempts": attempts,
        "max_attempts": changes.max_attempts,
        "args": None if changes.args is None else bytes(changes.args).decode(),
    }
    try:
        redriven = (await tx.connection.execute(_REDRIVE, parameters)).scalar_one_or_none()
    except IntegrityError as error:
        message = "another unfinished job of this task holds the unique key"
        raise ConflictError(message) from error
    if redriven is None:
        state = (await _found(tx, job_id)).state
        message = f"the job is {state}: only a dead, cancelled or expired job can be tried again"
        raise ConflictError(message)
    tx.bells.add(Bell.JOBS)


async def task_of(tx: Transaction, job_id: UUID) -> str:
    """Return the task of a job.

    Raises:
        NotFoundError: there is no such job.

    """
    return str((await _found(tx, job_id)).task)


async def _found(tx: Transaction, job_id: UUID) -> Row[Any]:
    row = (await tx.connection.execute(_FIND, {"id": job_id})).one_or_none()
    if row is None:
        message = f"there is no job {job_id}"
        raise NotFoundError(message)
    return row
