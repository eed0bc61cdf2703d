"""Many jobs are retried or cancelled at once, by a filter.

Owns the way through all jobs that meet a filter when the request begins: their ids are read from one snapshot, and the
jobs are moved a thousand at a time, each portion in a transaction of its own, so that neither the dispatcher nor a
worker waits for more than that. A job that somebody holds at the moment is passed over and tried again. Cut off in the
middle, what was moved stays moved, and the same request does the rest. A filter without a condition is refused: it
would be everything. Never move a job that did not match: it may be a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from headrace.database.driver import borrowed
from headrace.database.record import Bell, Record
from headrace.database.states import FINISHED, REDRIVABLE, JobState
from headrace.errors import FieldError, InvalidInputError, UnavailableError
from headrace.jobs.queries import JobFilter
from headrace.jobs.redrive import REVIVED
from headrace.transaction import Transaction

UNFINISHED: Final = frozenset(JobState) - FINISHED
BATCH: Final = 1000
_TRIES: Final = 100
_REST_SECONDS: Final = 0.05
_UNDECLARED_ATTEMPTS: Final = 10
"""How many more attempts a job gets whose task this code does not know."""

# The states stand literally, so that the planner can use the partial index of each.
_BRANCHES: Final[Mapping[JobState, tuple[str, ...]]] = {
    JobState.SCHEDULED: ("state = 'scheduled' AND waits_for = 0", "state = 'scheduled' AND waits_for > 0"),
    JobState.PENDING: ("state = 'pending' AND NOT parked", "state = 'pending' AND parked"),
    JobState.QUEUED: ("state = 'queued'",),
    JobState.RUNNING: ("state = 'running'",),
    JobState.RETRYING: ("state = 'retrying' AND waits_for = 0",),
    JobState.DEAD: ("state = 'dead'",),
    JobState.CANCELLED: ("state = 'cancelled'",),
    JobState.EXPIRED: ("state = 'expired'",),
}

# A job whose unique key is taken by now, or held for a time, stays where it is; of several with one key the newest
# comes back, and answers for the key again.
_RETRY: Final = f"""
    WITH held AS (
        SELECT id, task, unique_key FROM jobs
        WHERE id = ANY($1::uuid[]) AND state IN ('dead', 'cancelled', 'expired') AND finished_at <= $2
        FOR UPDATE SKIP LOCKED),
    first AS (
        SELECT DISTINCT ON (task, unique_key) id FROM held WHERE unique_key IS NOT NULL
        ORDER BY task, unique_key, id DESC),
    free AS (
        SELECT id, task FROM held WHERE unique_key IS NULL
        UNION ALL
        SELECT h.id, h.task FROM held h JOIN first ON first.id = h.id
        WHERE NOT EXISTS (SELECT FROM jobs o WHERE o.task = h.task AND o.unique_key = h.unique_key
                          AND o.state IN ('scheduled', 'pending', 'queued', 'running', 'retrying'))
          AND NOT EXISTS (SELECT FROM unique_keys k JOIN jobs o ON o.id = k.job_id
                          WHERE k.task = h.task AND k.key = h.unique_key AND k.until > now() AND k.job_id <> h.id
                            AND o.state NOT IN ('dead', 'cancelled', 'expired'))),
    moved AS (
        UPDATE jobs SET {REVIVED},
            max_attempts = greatest(max_attempts, attempt + least(max_attempts, coalesce(p.attempts, $5)))
        FROM free LEFT JOIN unnest($3::text[], $4::integer[]) AS p(task, attempts) ON p.task = free.task
        WHERE jobs.id = free.id
        RETURNING jobs.id, jobs.task, jobs.unique_key),
    answering AS (
        UPDATE unique_keys k SET job_id = moved.id FROM moved WHERE k.task = moved.task AND k.key = moved.unique_key)
    SELECT held.id, moved.id IS NOT NULL AS moved FROM held LEFT JOIN moved ON moved.id = held.id
"""  # noqa: S608 - composed of constants
_STILL_STOPPED = """
    SELECT id FROM jobs
    WHERE id = ANY($1::uuid[]) AND state IN ('dead', 'cancelled', 'expired') AND finished_at <= $2
"""

_CANCEL = """
    WITH held AS (
        SELECT id FROM jobs
        WHERE id = ANY($1::uuid[]) AND state IN ('scheduled', 'pending', 'queued', 'retrying', 'running')
          AND created_at <= $2
        FOR UPDATE SKIP LOCKED)
    UPDATE jobs SET
        state = CASE WHEN state = 'running' THEN state ELSE 'cancelled' END,
        finished_at = CASE WHEN state = 'running' THEN NULL ELSE now() END,
        cancel_requested_at = coalesce(cancel_requested_at, now())
    FROM held WHERE jobs.id = held.id
    RETURNING jobs.id, true AS moved
"""
_STILL_UNFINISHED = """
    SELECT id FROM jobs
    WHERE id = ANY($1::uuid[]) AND state IN ('scheduled', 'pending', 'queued', 'retrying', 'running')
      AND created_at <= $2
"""


@dataclass(frozen=True, slots=True)
class Change:
    """What is done to the jobs that match: make it with `retrying` or `cancelling`."""

    states: frozenset[JobState]
    refusal: str
    """What to say to a filter that names another state."""
    statement: str
    still: str
    """Finds those that match and were passed over."""
    arguments: tuple[object, ...]
    bells: frozenset[Bell]


def retrying(attempts: Mapping[str, int]) -> Change:
    """Make stopped jobs pending again; `attempts` says how many more those of each declared task get."""
    refusal = "only dead, cancelled and expired jobs can be retried"
    given = (list(attempts), list(attempts.values()), _UNDECLARED_ATTEMPTS)
    return Change(REDRIVABLE, refusal, _RETRY, _STILL_STOPPED, given, frozenset({Bell.JOBS}))


def cancelling() -> Change:
    """Cancel unfinished jobs: those that wait never run, those that run are ended by their workers."""
    refusal = "only unfinished jobs can be cancelled"
    return Change(
        UNFINISHED, refusal, _CANCEL, _STILL_UNFINISHED, (), frozenset({Bell.JOBS, Bell.CANCELS, Bell.ENDINGS})
    )


async def change_matching(record: Record, tx: Transaction, chosen: JobFilter, change: Change) -> int:
    """Change every job that meets the filter now; return how many were changed.

    Args:
        record: where the jobs are moved, in transactions of their own.
        tx: gives the snapshot; nothing is written through it.
        chosen: which jobs; at least one condition, and a state that the change can begin from.
        change: what to do.

    Raises:
        InvalidInputError: the filter has no condition, or names a state that cannot match.
        UnavailableError: somebody held some of the jobs all the time; the others were changed.

    """
    require_narrow(chosen, change)
    reader = await tx.driver()
    query, values = matching(chosen, change)
    cursor = await reader.cursor(f"SELECT id FROM ({query}) AS matching", *values)  # noqa: S608 - fragments of ours
    began_at = await reader.fetchval("SELECT clock_timestamp()")
    changed = 0
    async with borrowed(record.engine) as driver:
        while ids := [row["id"] for row in await cursor.fetch(BATCH)]:
            changed += await _change(driver, ids, change, began_at)
            for bell in change.bells:
                record.wakeup.ring(bell)
    return changed


async def count_matching(record: Record, chosen: JobFilter, change: Change) -> int:
    """Return how many jobs a change would begin with.

    Raises:
        InvalidInputError: as `change_matching`.

    """
    require_narrow(chosen, change)
    query, values = matching(chosen, change)
    async with borrowed(record.engine) as driver:
        count: int = await driver.fetchval(f"SELECT count(*) FROM ({query}) AS matching", *values)  # noqa: S608 - fragments of ours
    return count


def require_narrow(chosen: JobFilter, change: Change) -> None:
    """Refuse a filter that means everything, or nothing.

    Raises:
        InvalidInputError: it has no condition, or names a state that the change cannot begin from.

    """
    if chosen == JobFilter():
        message = "name at least one of state, task, queue and tag: without a condition this would be every job"
        raise InvalidInputError(message, (FieldError("", message),))
    if chosen.state is not None and chosen.state not in change.states:
        raise InvalidInputError(change.refusal, (FieldError("state", change.refusal),))


def matching(chosen: JobFilter, change: Change) -> tuple[str, list[object]]:
    """Return the query for the ids of the jobs that match, and its values."""
    states = change.states if chosen.state is None else {chosen.state}
    values: list[object] = []
    conditions = ""
    for condition, value in (("task = $", chosen.task), ("queue = $", chosen.queue), ("trace_id = $", chosen.trace_id)):
        if value is not None:
            values.append(value)
            conditions += f" AND {condition}{len(values)}"
    if chosen.tag is not None:
        values.append([chosen.tag])
        conditions += f" AND tags <> '{{}}' AND tags @> ${len(values)}::text[]"
    branches = [branch for state in JobState if state in states for branch in _BRANCHES[state]]
    return " UNION ALL ".join(f"SELECT id FROM jobs WHERE {branch}{conditions}" for branch in branches), values  # noqa: S608 - fragments of ours


async def _change(
    driver: asyncpg.Connection[asyncpg.Record], ids: Sequence[UUID], change: Change, began_at: datetime
) -> int:
    """Change one portion; what others hold is tried again until they let go."""
    changed, left = 0, list(ids)
    for _ in range(_TRIES):
        try:
            rows = await driver.fetch(change.statement, left, began_at, *change.arguments)
        except (asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError):  # others take these keys: look again
            continue
        changed += sum(1 for row in rows if row["moved"])
        if len(rows) == len(left):
            return changed
        met = {row["id"] for row in rows}
        unmet = [job_id for job_id in left if job_id not in met]
        left = [row["id"] for row in await driver.fetch(change.still, unmet, began_at)]
        if not left:
            return changed
        await asyncio.sleep(_REST_SECONDS)
    message = f"{len(left)} of the jobs are held by others, the job {left[0]} among them: repeat it for the rest"
    raise UnavailableError(message)
