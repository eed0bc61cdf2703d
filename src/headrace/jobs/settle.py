"""Outcomes enter the record: many attempts in one statement, each under its fence.

Owns the settling of attempts. An outcome whose fence is not the job's any more (another worker has taken the job
over, or it was settled before) changes nothing. Attempts that did not succeed are written beside the job in the same
statement. A job that somebody wants cancelled is not tried again. Never settle by the job's id alone: a batch may hold
the outcomes of two attempts of one job, and one of them is a zombie's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import asyncpg
import msgspec

from headrace.database.record import Bell
from headrace.errors import FencedError
from headrace.jobs.losses import LOST
from headrace.jobs.model import Key, Outcome
from headrace.transaction import Transaction

# By the primary key: the state is compared as a text, so that PostgreSQL does not read all running jobs by their index.
_SETTLE = """
    WITH given AS (
        SELECT * FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::float8[], $6::integer[],
                             $7::boolean[])
            AS o(id, fence, state, result, delay_seconds, refund, lost)),
    settled AS (
        UPDATE jobs SET
            state = CASE WHEN o.state IN ('pending', 'scheduled', 'retrying') AND jobs.cancel_requested_at IS NOT NULL
                         THEN 'cancelled' ELSE CAST(o.state AS job_state) END,
            result = CAST(o.result AS jsonb),
            run_at = CASE WHEN o.delay_seconds IS NULL THEN jobs.run_at
                          ELSE clock_timestamp() + make_interval(secs => o.delay_seconds) END,
            attempt = jobs.attempt - o.refund,
            lost = CASE WHEN o.lost THEN jobs.lost + 1 WHEN o.state = 'scheduled' THEN 0 ELSE jobs.lost END,
            finished_at = CASE
                WHEN o.state IN ('succeeded', 'dead', 'cancelled') OR jobs.cancel_requested_at IS NOT NULL
                THEN clock_timestamp() END
        FROM given o
        WHERE jobs.id = o.id AND jobs.fence = o.fence AND CAST(jobs.state AS text) = 'running'
        RETURNING jobs.id, jobs.attempt + o.refund AS attempt, jobs.fence, jobs.started_at, jobs.worker_id,
                  jobs.watched AND jobs.finished_at IS NOT NULL AS awaited),
    failed AS (
        INSERT INTO job_attempts
            (job_id, attempt, fence, started_at, at, outcome, type, message, traceback, trace_id, worker_id,
             fingerprint, release)
        SELECT s.id, s.attempt, s.fence, s.started_at, clock_timestamp(), f.outcome, f.type, f.message, f.traceback,
               f.trace_id, s.worker_id, f.fingerprint, nullif($9, '')
        FROM jsonb_to_recordset($8::jsonb)
            AS f(id uuid, fence integer, outcome text, type text, message text, traceback text, trace_id text,
                 fingerprint text)
        JOIN settled s ON s.id = f.id AND s.fence = f.fence)
    SELECT id, fence, awaited FROM settled
"""


Tell = Callable[[], None]
"""Called when others wait for the end of a job: the bell `ENDINGS` is to be rung when its outcome is committed."""


def nobody() -> None:
    """Tell nobody: who follows the ends looks for them anyway."""


async def settle(
    connection: asyncpg.Connection[asyncpg.Record],
    outcomes: Sequence[Outcome],
    *,
    tell: Tell = nobody,
    release: str = "",
) -> set[Key]:
    """Record outcomes and return the attempts (job, fence) that were settled by them; the others were fenced off.

    Args:
        connection: in no transaction, or in that of the attempt.
        outcomes: what was decided.
        tell: called when others wait for the end of one of these jobs.
        release: the version of the code that ran them, for what failed; "" where it is not known.

    """
    failures = [
        {"id": outcome.job_id, "fence": outcome.fence} | msgspec.structs.asdict(outcome.failure)
        for outcome in outcomes
        if outcome.failure
    ]
    rows = await connection.fetch(
        _SETTLE,
        [outcome.job_id for outcome in outcomes],
        [outcome.fence for outcome in outcomes],
        [outcome.state.value for outcome in outcomes],
        [outcome.result for outcome in outcomes],
        [outcome.delay_seconds for outcome in outcomes],
        [int(outcome.refund) for outcome in outcomes],
        [outcome.failure is not None and outcome.failure.outcome == LOST for outcome in outcomes],
        msgspec.json.encode(failures).decode(),
        release,
    )
    if any(row["awaited"] for row in rows):
        tell()
    return {(row["id"], row["fence"]) for row in rows}


async def settle_within(tx: Transaction, outcome: Outcome) -> None:
    """Record one outcome in the attempt's own transaction, so that its effects commit with it or not at all.

    Raises:
        FencedError: the job belongs to another attempt by now: the transaction must roll back.

    """
    if not await settle(await tx.driver(), [outcome], tell=lambda: tx.bells.add(Bell.ENDINGS)):
        message = f"the job {outcome.job_id} was taken over: the effects of this attempt are rolled back"
        raise FencedError(message)
