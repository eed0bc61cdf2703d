"""A job's way through the states, with times.

Owns the read of `job_transitions`, which the database keeps by itself: one `Move` for each state that a job was in, the
oldest first, and the sums that an operator asks for. A job that was made before moves were kept shows what is known.
Never work the times out from the job's own columns: those say when something happened last.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.database.states import JobState
from headrace.errors import NotFoundError

MOST_MOVES: Final = 1000

_KNOWN = text("SELECT EXISTS (SELECT FROM jobs WHERE id = :id)")

# Plan: index scans of jobs_pkey and job_moves_job; the job's id goes below the view's window.
_HISTORY = text("""
    SELECT state, at,
           CASE WHEN until IS NOT NULL OR state NOT IN ('succeeded', 'dead', 'cancelled', 'expired') THEN seconds END
    FROM job_transitions
    WHERE job_id = :id AND (CAST(:after AS timestamptz) IS NULL OR at > :after)
    ORDER BY at LIMIT :limit
""")


class Move(msgspec.Struct, frozen=True):
    """A state that a job was in."""

    state: JobState
    at: datetime
    """Since when."""
    seconds: float | None
    """For how long, up to now where it still is; null for the end of its way."""


class Spent(msgspec.Struct, frozen=True):
    """Where a job's time went."""

    delayed_seconds: float
    """Not yet due, or waiting for its parents: `scheduled`."""
    waited_seconds: float
    """Due, and waiting for a worker: `pending` and `queued`."""
    ran_seconds: float
    backed_off_seconds: float
    """Between two attempts: `retrying`."""


async def history_of(
    connection: AsyncConnection, job_id: UUID, *, limit: int = MOST_MOVES, after: datetime | None = None
) -> list[Move]:
    """Return the states that a job was in, the oldest first, those since `after` where it is given.

    Raises:
        NotFoundError: there is no such job.

    """
    rows = (await connection.execute(_HISTORY, {"id": job_id, "limit": limit, "after": after})).all()
    if not rows and not await connection.scalar(_KNOWN, {"id": job_id}):
        message = f"there is no job {job_id}"
        raise NotFoundError(message)
    return [Move(JobState(row.state), row.at, row[2]) for row in rows]


def spent(moves: Sequence[Move]) -> Spent:
    """Add up how long a job was delayed, waited, ran and backed off."""
    return Spent(
        delayed_seconds=_in(moves, JobState.SCHEDULED),
        waited_seconds=_in(moves, JobState.PENDING, JobState.QUEUED),
        ran_seconds=_in(moves, JobState.RUNNING),
        backed_off_seconds=_in(moves, JobState.RETRYING),
    )


def _in(moves: Sequence[Move], *states: JobState) -> float:
    return sum(move.seconds or 0.0 for move in moves if move.state in states)
