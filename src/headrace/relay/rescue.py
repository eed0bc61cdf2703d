"""Jobs of dead workers run again.

Owns the rescue: a job that is `running` under a worker whose lease has run out is released again at once, and the
attempt is on record as lost. It keeps its `run_at`, and so its place before younger jobs; one that was to be cancelled
is cancelled by its worker's death. One under which as many workers were lost as its task allows is dead, quarantined:
it is what kills them, for all we know. So that those which only ran beside it do not share its fate, jobs that are lost
for the second time together are tried again one after another. The fence makes all this safe: should the worker only
have been asleep, its outcome and its session's commit are refused. Runs in the relay, and in the clock as a second
hand; both may do it at once. After an outage of PostgreSQL every lease looks old, and nobody has had the time to renew:
nothing is rescued until a connection is older than a lease, for none outlives a restart or a crash.
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
    suspects AS (
        SELECT id, row_number() OVER (ORDER BY id) - 1 AS place,
               least(:apart_seconds, :longest_seconds / count(*) OVER ()) AS apart_seconds
        FROM lost WHERE next = 'pending' AND losses > 1),
    moved AS (
        UPDATE jobs SET
            state = CAST(CASE WHEN suspects.place > 0 THEN 'retrying' ELSE lost.next END AS job_state),
            run_at = CASE WHEN suspects.place > 0
                THEN clock_timestamp() + make_interval(secs => suspects.place * suspects.apart_seconds)
                ELSE jobs.run_at END,
            lost = lost.losses,
            finished_at = CASE WHEN lost.next <> 'pending' THEN now() END
        FROM lost LEFT JOIN suspects ON suspects.id = lost.id
        WHERE jobs.id = lost.id
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
_APART_SECONDS = 2.0
"""How long one that may have killed its worker twice has for itself before the next one begins."""
_MOST_APART = 150
"""How many have that much; more of them begin closer together, within the same five minutes."""


async def rescue_once(record: Record, *, lease_seconds: float, apart_seconds: float = _APART_SECONDS) -> int:
    """Release the jobs of dead workers again; return how many."""
    parameters = {
        "lease_seconds": lease_seconds,
        "apart_seconds": apart_seconds,
        "longest_seconds": apart_seconds * _MOST_APART,
    }
    async with record.engine.begin() as connection:
        rescued = list((await connection.execute(_RESCUE, parameters | _QUARANTINE)).scalars())
    if rescued:
        logger.warning("jobs_rescued", count=len(rescued), first=str(rescued[0]))
        record.wakeup.ring(Bell.JOBS)
    return len(rescued)
