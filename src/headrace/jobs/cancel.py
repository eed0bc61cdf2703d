"""An operator stops a job.

Owns the request to cancel: a job that has not started never runs, in the same statement that reads its state; a
running one is marked, and its worker, which hears a bell after the commit and looks at its marks anyway, ends the
run. A finished job stays as it is, but for a dead or expired one whose children still wait for it: cancelling it gives
them up. Never cancel by looking first: the state may have changed by the time of the write.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import text

from headrace.database.record import Bell
from headrace.database.states import JobState
from headrace.errors import ConflictError, NotFoundError
from headrace.transaction import Transaction

_CANCEL = text("""
    UPDATE jobs SET
        state = CASE WHEN state = 'running' THEN state ELSE 'cancelled' END,
        finished_at = CASE WHEN state = 'running' THEN NULL ELSE now() END,
        cancel_requested_at = coalesce(cancel_requested_at, now())
    WHERE id = :id AND state IN ('scheduled', 'pending', 'queued', 'retrying', 'running')
    RETURNING state
""")

_GIVE_UP = text("""
    UPDATE jobs SET state = 'cancelled', finished_at = now(), cancel_requested_at = now()
    WHERE id = :id AND state IN ('dead', 'expired')
      AND EXISTS (SELECT FROM job_parents l JOIN jobs c ON c.id = l.child_id
                  WHERE l.parent_id = jobs.id AND l.needs = 'succeeded' AND l.satisfied_at IS NULL
                    AND c.state = 'scheduled')
    RETURNING state
""")

_STATE = text("SELECT state FROM jobs WHERE id = :id")


async def cancel_job(tx: Transaction, job_id: UUID) -> JobState:
    """Cancel a job; return its state, which is still `running` where a worker must end it first.

    Raises:
        NotFoundError: there is no such job.
        ConflictError: it is finished, and no child waits for it.

    """
    state = (await tx.connection.execute(_CANCEL, {"id": job_id})).scalar_one_or_none()
    if state == JobState.RUNNING:
        tx.bells.add(Bell.CANCELS)
    if state is None:
        state = (await tx.connection.execute(_GIVE_UP, {"id": job_id})).scalar_one_or_none()
    if state is None:
        state = (await tx.connection.execute(_STATE, {"id": job_id})).scalar_one_or_none()
        if state is None:
            message = f"there is no job {job_id}"
            raise NotFoundError(message)
        message = f"the job is {state}: only an unfinished job can be cancelled"
        raise ConflictError(message)
    if state == JobState.CANCELLED:
        tx.bells.add(Bell.ENDINGS)
    return JobState(state)
