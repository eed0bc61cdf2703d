"""How far running jobs are.

Owns the write of `progress`, many jobs in one statement, on a connection of the pool and not in a task's session, so
that others see it at once; and the name of the channel on which it is told live. A run that has lost its fence writes
nothing. Never wait for the locks of many jobs: who settles or cancels them may hold one and wait for another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy import text

from headrace.database.record import Record
from headrace.jobs.model import Key

_CHANNEL: Final = "headrace:progress:"
_MAX_NOTE: Final = 1000

_WRITE: Final = text("""
    WITH free AS (
        SELECT j.id, j.fence, g.progress
        FROM unnest(CAST(:ids AS uuid[]), CAST(:fences AS integer[]), CAST(:progress AS text[]))
            AS g(id, fence, progress)
        JOIN jobs j ON j.id = g.id AND j.fence = g.fence AND j.state = 'running'
        FOR NO KEY UPDATE OF j SKIP LOCKED)
    UPDATE jobs SET progress = CAST(free.progress AS jsonb) FROM free WHERE jobs.id = free.id
    RETURNING jobs.id, jobs.fence
""")

_WRITE_LAST: Final = text("""
    UPDATE jobs SET progress = CAST(:progress AS jsonb) WHERE id = :id AND fence = :fence AND state = 'running'
""")


class Progress(msgspec.Struct, frozen=True):
    """How far a running job is."""

    done: int | float
    total: int | float | None
    note: str | None


def progress_json(done: float, total: float, note: str) -> str:
    """Return a progress as it stands on record; a note is cut after 1,000 characters."""
    sound = note[:_MAX_NOTE].replace("\x00", "\N{SYMBOL FOR NULL}").encode("utf-8", "replace").decode()
    return msgspec.json.encode(Progress(done, total, sound)).decode()


async def write_progress(record: Record, reported: Mapping[Key, str]) -> Sequence[Key]:
    """Record the progress of many attempts; return those for which it was written: they run, and nobody held them."""
    keys = list(reported)
    parameters = {
        "ids": [job_id for job_id, _ in keys],
        "fences": [fence for _, fence in keys],
        "progress": list(reported.values()),
    }
    async with record.engine.begin() as connection:
        return [(row.id, row.fence) for row in await connection.execute(_WRITE, parameters)]


async def write_last_progress(record: Record, key: Key, progress: str) -> None:
    """Record the progress of one attempt that ends; waits for whoever holds the job."""
    async with record.engine.begin() as connection:
        await connection.execute(_WRITE_LAST, {"id": key[0], "fence": key[1], "progress": progress})


def progress_channel(job_id: UUID) -> str:
    """Return the Redis channel on which a job's progress is published."""
    return f"{_CHANNEL}{job_id}"


def job_of_channel(channel: str) -> UUID:
    """Return whose progress a channel tells."""
    return UUID(channel.removeprefix(_CHANNEL))
