"""Finished jobs leave the record when their time is over.

Owns the deletion of jobs, with the attempts that did not succeed, that finished before a given time. Batches of 1,000
in transactions of their own, in the order of the primary key, skipping rows that anybody works on: neither the
dispatcher nor a worker ever waits for it. Stopping it at any moment leaves nothing half deleted. Never delete a job
that is not finished, however old.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text

from headrace.clock import first_id_at
from headrace.database.record import Record

BATCH: Final = 1000

# Plan: index scan of jobs_pkey from :after to :bound, because ids rise with time and a job finishes after it is made.
_PRUNE: Final = text("""
    WITH old AS (
        SELECT id FROM jobs
        WHERE id > :after AND id < :bound AND finished_at < :before
          AND state IN ('succeeded', 'dead', 'cancelled', 'expired')
        ORDER BY id LIMIT :batch FOR UPDATE SKIP LOCKED),
    attempts AS (DELETE FROM job_attempts USING old WHERE job_attempts.job_id = old.id)
    DELETE FROM jobs USING old WHERE jobs.id = old.id RETURNING jobs.id
""")


async def prune_jobs(record: Record, before: datetime, *, batch: int = BATCH) -> int:
    """Delete the jobs that finished before this time; return how many."""
    pruned, after = 0, UUID(int=0)
    while True:
        parameters = {"after": after, "bound": first_id_at(before), "before": before, "batch": batch}
        async with record.engine.begin() as connection:
            gone = list((await connection.execute(_PRUNE, parameters)).scalars())
        pruned += len(gone)
        if len(gone) < batch:
            return pruned
        after = max(gone)
