"""Finished jobs leave the record when their time is over.

Owns the deletion of jobs, with everything that is kept beside them: those that finished before a given time, and those
whose task or call gave them a time of their own (`forget_at`, set when they finish). Batches of 1,000 in transactions
of their own, skipping rows that anybody works on: neither the dispatcher nor a worker ever waits for it. Stopping it at
any moment leaves nothing half deleted. Never delete a job that is not finished, however old, nor a finished one whose
end nobody has acted upon, or whose result a child may still read (every child that has not succeeded), or that
answers for a unique key.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text

from headrace.clock import first_id_at
from headrace.database.record import Record

BATCH: Final = 1000

# OFFSET 0: asked of each job by itself, along an index. PostgreSQL would else begin each portion with a list of the
# links of all workflows (with 150,000 of them, 35 ms for a portion that now takes 7).
_WANTED: Final = """
    (watched AND (EXISTS (SELECT FROM job_endings n WHERE n.job_id = jobs.id OFFSET 0)
                  OR EXISTS (SELECT FROM job_parents e JOIN jobs c ON c.id = e.child_id
                             WHERE e.parent_id = jobs.id AND c.state <> 'succeeded' OFFSET 0))
     OR (unique_key IS NOT NULL
         AND EXISTS (SELECT FROM unique_keys k
                     WHERE k.task = jobs.task AND k.key = jobs.unique_key AND k.job_id = jobs.id AND k.until > now()
                     OFFSET 0)))
"""
_DELETE: Final = """
    attempts AS (DELETE FROM job_attempts USING old WHERE job_attempts.job_id = old.id),
    traces AS (DELETE FROM job_traces USING old WHERE job_traces.trace_id = old.trace AND job_traces.job_id = old.id),
    moves AS (DELETE FROM job_moves USING old WHERE job_moves.job_id = old.id),
    parents AS (DELETE FROM job_parents USING old WHERE job_parents.child_id = old.id)
    DELETE FROM jobs USING old WHERE jobs.id = old.id RETURNING jobs.id
"""

# Plan: index scan of jobs_pkey from :after to :bound, because ids rise with time and a job finishes after it is made.
_PRUNE: Final = text(f"""
    WITH old AS (
        SELECT id, CAST(nullif(trace_id, '') AS uuid) AS trace FROM jobs
        WHERE id > :after AND id < :bound AND finished_at < :before AND retention_seconds IS NULL
          AND state IN ('succeeded', 'dead', 'cancelled', 'expired') AND NOT {_WANTED}
        ORDER BY id LIMIT :batch FOR UPDATE SKIP LOCKED),
    {_DELETE}
""")  # noqa: S608 - composed of constants

# Plan: index scan of jobs_forgotten.
_FORGET: Final = text(f"""
    WITH old AS (
        SELECT id, CAST(nullif(trace_id, '') AS uuid) AS trace FROM jobs
        WHERE forget_at <= now() AND NOT {_WANTED} LIMIT :batch FOR UPDATE SKIP LOCKED),
    {_DELETE}
""")  # noqa: S608 - composed of constants


async def prune_jobs(record: Record, before: datetime, *, batch: int = BATCH) -> int:
    """Delete the jobs without a retention of their own that finished before this time; return how many."""
    pruned, after = 0, UUID(int=0)
    while True:
        parameters = {"after": after, "bound": first_id_at(before), "before": before, "batch": batch}
        async with record.engine.begin() as connection:
            gone = list((await connection.execute(_PRUNE, parameters)).scalars())
        pruned += len(gone)
        if len(gone) < batch:
            return pruned
        after = max(gone)


async def forget_jobs(record: Record, *, batch: int = BATCH) -> int:
    """Delete the jobs whose own retention is over; return how many."""
    forgotten = 0
    while True:
        async with record.engine.begin() as connection:
            gone = (await connection.execute(_FORGET, {"batch": batch})).rowcount
        forgotten += gone
        if gone < batch:
            return forgotten
