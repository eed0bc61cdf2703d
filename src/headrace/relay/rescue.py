"""Jobs of dead workers run again.

Owns the rescue: a job that is `running` under a worker whose lease has run out is released again at once, and the
attempt is on record as lost. It keeps its `run_at`, and so its place before younger jobs; one that was to be cancelled
is cancelled by its worker's death. One under which as many workers were lost as its task allows is dead, quarantined:
it is what kills them, for all we know. The fence makes this safe: should the worker only have been asleep, its outcome
and its session's commit are refused. Runs in the relay, and in the clock as a second hand; both may do it at once.
After an outage of PostgreSQL every lease looks old, and nobody has had the time to renew: nothing is rescued until a
connection is older than a lease, for none outlives a restart or a crash.
"""

from __future__ import annotations

import structlog
from sqlalchemy import text

from headrace.database.record import Bell, Record
from headrace.jobs.losses import QUARANTINED, WHY_QUARANTINED
from headrace.jobs.retry import DEFAULT_MAX_LOSSES

logger = structlog.get_logger(__name__)

_RESCUE = text("""
    WITH lost AS (
        SELECT j.id, j.attempt, j.fence, j.started_at, j.worker_id, j.trace_id,
               coalesce(p.host || ', process ' || p.pid, j.worker_id::text) AS worker, j.lost + 1 AS losses,
               j.lost + 1 >= coalesce(CAST(j.overrides->>'max_losses' AS integer), :max_losses) AS deadly,
               CASE WHEN j.cancel_requested_at IS NOT NULL THEN 'cancelled'
                    WHEN j.lost + 1 >= coalesce(CAST(j.overrides->>'max_losses' AS integer), :max_losses)
                      OR j.attempt >= j.max_attempts THEN 'dead'
                    ELSE 'pending' END AS next
        FROM jobs j LEFT JOIN processes p ON p.id = j.worker_id
        WHERE j.state = 'running' AND (p.id IS NULL OR p.expires_at < now())
          AND EXISTS (SELECT FROM pg_stat_activity
                      WHERE datname = current_database() AND backend_type = 'client backend'
                        AND backend_start < now() - make_interval(secs => :lease_seconds))
        LIMIT 1000
        FOR UPDATE OF j SKIP LOCKED),
    moved AS (
        UPDATE jobs SET
            state = CAST(lost.next AS job_state),
            lost = lost.losses,
            finished_at = CASE WHEN lost.next <> 'pending' THEN now() END
        FROM lost WHERE jobs.id = lost.id
        RETURNING jobs.id)
    INSERT INTO job_attempts
        (job_id, attempt, fence, started_at, outcome, type, message, traceback, trace_id, worker_id)
    SELECT id, attempt, fence, started_at, 'lost',
           CASE WHEN deadly AND next = 'dead' THEN :quarantined ELSE 'WorkerLost' END,
           CASE WHEN deadly AND next = 'dead'
                THEN losses || ' ' || :why
                ELSE 'the worker ' || worker || ' died or lost its lease' END,
           '', trace_id, worker_id
    FROM lost
    RETURNING job_id
""")

_QUARANTINE = {"max_losses": DEFAULT_MAX_LOSSES, "quarantined": QUARANTINED, "why": WHY_QUARANTINED}


async def rescue_once(record: Record, *, lease_seconds: float) -> int:
    """Release the jobs of dead workers again; return how many."""
    async with record.engine.begin() as connection:
        parameters = {"lease_seconds": lease_seconds} | _QUARANTINE
        rescued = list((await connection.execute(_RESCUE, parameters)).scalars())
    if rescued:
        logger.warning("jobs_rescued", count=len(rescued), first=str(rescued[0]))
        record.wakeup.ring(Bell.JOBS)
    return len(rescued)
