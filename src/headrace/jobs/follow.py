"""What follows from the end of a job that others wait for.

Owns the step from an ending to its consequences. A trigger of the database writes a row of `job_endings` when a watched
job ends, in the transaction that ends it, whoever does so. Here the rows are taken out and acted upon in one
transaction: children that have waited for this become due, those of a cancelled parent are cancelled with all that wait
for them, and the task that wants to be told of a death gets its job. So each ending has its consequences exactly
once, whatever dies meanwhile, and however soon after its end the job is tried again. Any number may do this at once.
Never look for ended jobs by their state: between two looks a job may have died, been retried, and died again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
import structlog

from headrace.clock import new_id
from headrace.database.states import JobState
from headrace.jobs.call import Call
from headrace.jobs.graph import MOST_STEPS
from headrace.jobs.insert import NewJob, insert_at_once
from headrace.jobs.retry import Retry

logger = structlog.get_logger(__name__)

MOST_AT_ONCE: Final = 500
_ENOUGH_LINKS: Final = 5_000

# Endings with many children are few at a time: what one transaction does stays within seconds.
_TAKE: Final = f"""
    WITH oldest AS (
        SELECT seq, job_id FROM job_endings ORDER BY seq LIMIT $1 FOR UPDATE SKIP LOCKED),
    weighed AS (
        SELECT seq, sum(links) OVER (ORDER BY seq) - links AS links_before FROM oldest CROSS JOIN LATERAL (
            SELECT count(*) AS links FROM job_parents l
            WHERE l.parent_id = oldest.job_id AND l.satisfied_at IS NULL) AS counted)
    DELETE FROM job_endings WHERE seq IN (SELECT seq FROM weighed WHERE links_before < {_ENOUGH_LINKS})
    RETURNING job_id, state::text, fence
"""  # noqa: S608 - our own number

# As text, so that no statistics can lead to the index of all jobs that wait: each of these is found by its id.
_WAITS: Final = "CAST(jobs.state AS text) = 'scheduled' AND jobs.waits_for > 0"

# A child that waits has never started, so what is below a cancelled job is cancelled here and now, level by level. All
# children are among the first; where there are more below them than the limit, their own endings lead on. Links that
# are found twice are followed once: a graph has far more ways than links.
_CANCEL_CHILDREN: Final = f"""
    WITH RECURSIVE doomed(id, parent_id, name) AS (
        SELECT l.child_id, l.parent_id, l.name FROM job_parents l JOIN jobs ON jobs.id = l.child_id
        WHERE l.parent_id = ANY($1::uuid[]) AND l.needs = 'succeeded' AND l.satisfied_at IS NULL
          AND {_WAITS}
        UNION
        SELECT l.child_id, l.parent_id, l.name
        FROM doomed d JOIN job_parents l ON l.parent_id = d.id JOIN jobs ON jobs.id = l.child_id
        WHERE l.needs = 'succeeded' AND l.satisfied_at IS NULL AND {_WAITS}),
    one AS (
        SELECT DISTINCT ON (id) id, parent_id, name
        FROM (SELECT * FROM doomed LIMIT {_ENOUGH_LINKS + MOST_STEPS}) AS first ORDER BY id, parent_id),
    locked AS (SELECT j.id FROM jobs j JOIN one ON one.id = j.id ORDER BY j.id FOR NO KEY UPDATE OF j),
    cancelled AS (
        UPDATE jobs SET state = 'cancelled', finished_at = clock_timestamp(), cancel_requested_at = clock_timestamp()
        FROM locked WHERE jobs.id = locked.id AND {_WAITS}
        RETURNING jobs.id, jobs.attempt, jobs.fence, jobs.trace_id)
    INSERT INTO job_attempts (job_id, attempt, fence, outcome, type, message, traceback, trace_id)
    SELECT c.id, c.attempt, c.fence, 'cancelled', 'ParentCancelled',
           'its parent ' || one.name || ', the job ' || one.parent_id || ', was cancelled', '', c.trace_id
    FROM cancelled c JOIN one ON one.id = c.id
    ON CONFLICT (job_id, attempt, fence) DO UPDATE
        SET at = now(), outcome = excluded.outcome, type = excluded.type, message = excluded.message
"""  # noqa: S608 - our own number

# However many parents of a child end at once, its row is written once. Rows are locked in the order of their ids, so
# that two who do this at the same time wait for each other in one direction only.
_SATISFY: Final = """
    WITH moment AS MATERIALIZED (SELECT clock_timestamp() AS at),
    ended AS (SELECT * FROM unnest($1::uuid[], $2::boolean[]) AS e(id, succeeded)),
    satisfied AS (
        UPDATE job_parents l SET satisfied_at = moment.at FROM ended, moment
        WHERE l.parent_id = ended.id AND l.satisfied_at IS NULL AND (ended.succeeded OR l.needs = 'finished')
        RETURNING l.child_id),
    counted AS (SELECT child_id, count(*)::integer AS parents FROM satisfied GROUP BY child_id),
    locked AS (
        SELECT j.id, c.parents FROM jobs j JOIN counted c ON c.child_id = j.id ORDER BY j.id FOR NO KEY UPDATE OF j),
    moved AS (
        UPDATE jobs SET
            waits_for = waits_for - locked.parents,
            run_at = CASE WHEN waits_for > locked.parents OR state <> 'scheduled' THEN run_at
                          ELSE greatest(run_at, moment.at + make_interval(secs => coalesce(delay_seconds, 0))) END,
            state = CASE WHEN waits_for > locked.parents OR state <> 'scheduled' OR run_at > moment.at
                           OR delay_seconds > 0 THEN state ELSE 'pending' END
        FROM locked, moment WHERE jobs.id = locked.id
        RETURNING jobs.state)
    SELECT EXISTS (SELECT FROM moved WHERE state = 'pending')
"""

_DEATHS: Final = """
    SELECT j.id, j.task, j.on_dead, j.queue, j.priority, j.traceparent, coalesce(a.error, '') AS error
    FROM unnest($1::uuid[], $2::integer[]) AS d(id, fence)
    JOIN jobs j ON j.id = d.id
    LEFT JOIN LATERAL (
        SELECT type || ': ' || message AS error FROM job_attempts
        WHERE job_id = d.id AND job_attempts.fence <= d.fence ORDER BY job_attempts.fence DESC LIMIT 1) AS a ON true
    WHERE j.on_dead IS NOT NULL
"""


class Death(msgspec.Struct, frozen=True):
    """A job that is dead, and the task that wants to be told."""

    job_id: UUID
    task: str
    on_dead: str
    queue: str
    priority: int
    traceparent: str
    error: str
    """Type and message of its last attempt's error."""


class _Told(msgspec.Struct, frozen=True):
    """The arguments of a task that is told of a death."""

    job_id: UUID
    task: str
    error: str


CallOf = Callable[[msgspec.Raw], Call]
"""Builds the call of a task from its arguments as JSON."""


async def follow_endings(
    connection: asyncpg.Connection[asyncpg.Record],
    hooks: Mapping[str, CallOf],
    *,
    limit: int = MOST_AT_ONCE,
    tell: Callable[[], None] | None = None,
) -> int:
    """Act upon the oldest endings of watched jobs, in a transaction of its own; return how many there were.

    Args:
        connection: in no transaction.
        hooks: by name, the tasks that this code knows, for those that are told of a death.
        limit: how many endings at most.
        tell: called when jobs have become due by this.

    """
    async with connection.transaction():
        ended = [(row["job_id"], JobState(row["state"]), row["fence"]) for row in await connection.fetch(_TAKE, limit)]
        if not ended:
            return 0
        # first what is cancelled: a job that was retried and has succeeded since then finds its children cancelled
        if cancelled := [job_id for job_id, state, _ in ended if state is JobState.CANCELLED]:
            await connection.execute(_CANCEL_CHILDREN, cancelled)
        succeeded = [state is JobState.SUCCEEDED for _, state, _ in ended]
        due = await connection.fetchval(_SATISFY, [job_id for job_id, _, _ in ended], succeeded)
        if dead := [(job_id, fence) for job_id, state, fence in ended if state is JobState.DEAD]:
            due = await _make_hooks(connection, dead, hooks) or due
    if due and tell is not None:
        tell()
    return len(ended)


async def _make_hooks(
    connection: asyncpg.Connection[asyncpg.Record], dead: Sequence[tuple[UUID, int]], hooks: Mapping[str, CallOf]
) -> bool:
    ids, fences = [job_id for job_id, _ in dead], [fence for _, fence in dead]
    deaths = [Death(*row) for row in await connection.fetch(_DEATHS, ids, fences)]
    if deaths:
        await insert_at_once(
            connection, [NewJob(new_id(), _call_about(death, hooks), death.traceparent) for death in deaths]
        )
    return bool(deaths)


def _call_about(death: Death, hooks: Mapping[str, CallOf]) -> Call:
    args = msgspec.Raw(msgspec.json.encode(_Told(death.job_id, death.task, death.error)))
    known = hooks.get(death.on_dead)
    if known is None:
        # a newer version's, perhaps: whoever works off the dead job's queue may know it, and until then it is on record
        logger.warning("on_dead_unknown", task=death.on_dead, job_id=str(death.job_id))
        attempts = Retry().max_attempts
        call = Call(task=death.on_dead, args=args, queue=death.queue, priority=death.priority, max_attempts=attempts)
    else:
        call = known(args)
    return msgspec.structs.replace(call, parent_id=death.job_id)
