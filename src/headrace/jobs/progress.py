"""How far a running job is.

Owns the write of `progress`, on a connection of the pool and not in the task's session, so that others see it at once.
A run that has lost its fence writes nothing.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import text

from headrace.database.record import Record

_WRITE = text("""
    UPDATE jobs
    SET progress = jsonb_build_object('done', CAST(:progress AS jsonb) -> 0, 'total', CAST(:progress AS jsonb) -> 1,
                                      'note', CAST(:progress AS jsonb) -> 2)
    WHERE id = :id AND fence = :fence AND state = 'running'
""")


async def write_progress(record: Record, job_id: UUID, fence: int, progress: str) -> None:
    """Record the progress, given as the JSON array `[done, total, note]`."""
    async with record.engine.begin() as connection:
        await connection.execute(_WRITE, {"id": job_id, "fence": fence, "progress": progress})
