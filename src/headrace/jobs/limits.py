"""The limits of a queue: how many of its jobs at once, how many in a time, how many with one concurrency key.

Owns their values, their place in the row of the queue, how a job stands to them, and the ledger of starts. A limit
holds for the whole fleet. The dispatcher enforces it, by what is in flight and what was started, counted from the
record each time and never kept aside, so that nothing needs mending after a crash. Limits count from the moment their
request was answered; what is in flight by then may end. Never count starts by the jobs' own rows: a job that runs again
has forgotten its first start.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

import asyncpg
import msgspec
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.database.record import Bell
from headrace.errors import NotFoundError
from headrace.transaction import Transaction

DEFAULT_PER_KEY: Final = 1
_MOST: Final = 1_000_000
_LONGEST_SECONDS: Final = 366 * 86_400
_NEW_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

_Count = Annotated[int, msgspec.Meta(ge=1, le=_MOST)]

_UPDATE = text("""
    UPDATE queues SET concurrency = :concurrency, rate_limit = :rate_limit, rate_per_seconds = :rate_per_seconds,
                      per_key_concurrency = :per_key_concurrency
    WHERE name = :name RETURNING name
""")
_MAKE = text("INSERT INTO queues (name) VALUES (:name) ON CONFLICT DO NOTHING")

# A queue's next start is allowed when the oldest start that must leave the window has left it. What is on the belt may
# start at any moment, and so counts as if it had: where it alone fills the window, the next start is a window away.
_RATE = """
    LEFT JOIN LATERAL (
        SELECT max(belt.jobs) + coalesce(sum(s.jobs), 0) AS taken,
               coalesce(min(s.at) FILTER (WHERE s.since - s.jobs + belt.jobs < q.rate_limit), clock_timestamp())
                   + make_interval(secs => q.rate_per_seconds) AS next_at
        FROM (SELECT count(*) AS jobs FROM jobs o WHERE o.queue = q.name AND o.state = 'queued') AS belt
        LEFT JOIN (SELECT at, jobs, sum(jobs) OVER (ORDER BY at DESC ROWS UNBOUNDED PRECEDING) AS since
                   FROM queue_starts
                   WHERE queue = q.name
                     AND at > clock_timestamp() - make_interval(secs => q.rate_per_seconds)) AS s ON true
    ) AS rate ON q.rate_limit IS NOT NULL
"""

_STANDING = text(f"""
    SELECT q.concurrency, q.rate_limit, q.rate_per_seconds, q.per_key_concurrency, j.concurrency_key,
           CASE WHEN q.concurrency IS NOT NULL THEN (
               SELECT count(*) FROM jobs o WHERE o.queue = j.queue AND o.state IN ('queued', 'running')) ELSE 0
           END AS in_flight,
           CASE WHEN rate.taken >= q.rate_limit THEN rate.next_at END AS next_at,
           ARRAY(SELECT o.id FROM jobs o
                 WHERE o.queue = j.queue AND o.concurrency_key = j.concurrency_key AND o.concurrency_key IS NOT NULL
                   AND NOT o.parked AND o.state IN ('queued', 'running') AND o.id <> j.id
                 ORDER BY o.id) AS holders
    FROM jobs j LEFT JOIN queues q ON q.name = j.queue {_RATE}
    WHERE j.id = :id
""")  # noqa: S608 - the fragment is our own

_SHUT = f"""
    SELECT q.name, extract(epoch FROM rate.next_at - clock_timestamp())::float8 AS seconds
    FROM queues q {_RATE}
    WHERE q.name = ANY($1::text[]) AND rate.taken >= q.rate_limit
"""  # noqa: S608 - the fragment is our own

_FORGET = """
    DELETE FROM queue_starts s
    WHERE NOT EXISTS (SELECT FROM queues q WHERE q.name = s.queue
                      AND s.at >= now() - make_interval(secs => q.rate_per_seconds))
"""

# Starts of more than ten seconds ago are joined to at most a thousand rows for a window. A joined row bears the latest
# of its times: its starts leave the window late by up to a thousandth of it, never early. Should two do this at once,
# each joins what the other has not taken out.
_JOIN = """
    WITH aged AS (
        SELECT s.ctid AS place, s.queue, floor(extract(epoch FROM s.at) * 1000 / q.rate_per_seconds) AS bucket
        FROM queue_starts s JOIN queues q ON q.name = s.queue
        WHERE s.at < now() - interval '10 seconds'),
    joined AS (
        DELETE FROM queue_starts s
        USING (SELECT place, queue, bucket, count(*) OVER (PARTITION BY queue, bucket) AS rows FROM aged) AS a
        WHERE s.ctid = a.place AND a.rows > 1
        RETURNING s.queue, a.bucket, s.at, s.jobs)
    INSERT INTO queue_starts (queue, at, jobs) SELECT queue, max(at), sum(jobs) FROM joined GROUP BY queue, bucket
"""


class Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At most `limit` starts within any `per_seconds`."""

    limit: Annotated[_Count, msgspec.Meta(description="how many jobs may start")]
    per_seconds: Annotated[
        float, msgspec.Meta(gt=0, le=_LONGEST_SECONDS, description="within any stretch of this length")
    ]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a queue may do at most, in all of its workers together; null, or missing, for no limit."""

    concurrency: Annotated[_Count | None, msgspec.Meta(description="jobs at once")] = None
    rate: Annotated[Rate | None, msgspec.Meta(description="how many jobs may start in a time")] = None
    per_key_concurrency: Annotated[
        _Count | None, msgspec.Meta(description="jobs at once with the same concurrency key; 1 where it is missing")
    ] = None


class LimitStanding(msgspec.Struct, frozen=True):
    """How a job stands to the limits of its queue at one moment."""

    concurrency: int | None
    """How many jobs of the queue may be in flight; None for any number."""
    in_flight: int
    """How many are, released or running; counted only where there is a limit."""
    rate: Rate | None
    next_at: datetime | None
    """When the rate allows the next start; None where it does now, or where there is none."""
    key_limit: int | None
    """How many jobs with this one's concurrency key may be in flight; None where it has no key."""
    holders: list[UUID]
    """The other jobs that hold its key, released or running."""

    @property
    def queue_is_full(self) -> bool:
        """Whether the queue is at its concurrency limit."""
        return self.concurrency is not None and self.in_flight >= self.concurrency

    @property
    def rate_is_reached(self) -> bool:
        """Whether the rate allows no start now."""
        return self.next_at is not None

    @property
    def key_is_busy(self) -> bool:
        """Whether as many other jobs as may hold its concurrency key."""
        return self.key_limit is not None and len(self.holders) >= self.key_limit


def limits_of(row: Row[Any]) -> Limits | None:
    """Return the limits in a row of `queues`; None where none is set."""
    limits = Limits(row.concurrency, _rate_of(row), row.per_key_concurrency)
    return None if limits == Limits() else limits


async def set_limits(tx: Transaction, queue: str, limits: Limits) -> None:
    """Set the limits of a queue, in place of those it had; one that no job has used yet is made.

    Raises:
        NotFoundError: there is no such queue, and none can have this name.

    """
    if _NEW_NAME.fullmatch(queue):
        await tx.connection.execute(_MAKE, {"name": queue})
    rate = limits.rate
    parameters = {
        "name": queue,
        "concurrency": limits.concurrency,
        "rate_limit": rate and rate.limit,
        "rate_per_seconds": rate and rate.per_seconds,
        "per_key_concurrency": limits.per_key_concurrency,
    }
    if (await tx.connection.execute(_UPDATE, parameters)).one_or_none() is None:
        message = f"there is no queue {queue}"
        raise NotFoundError(message)
    tx.bells.add(Bell.JOBS)


async def standing_limits(connection: AsyncConnection, job_id: UUID) -> LimitStanding:
    """Tell how a job stands to the limits of its queue, as of this moment.

    Raises:
        NotFoundError: there is no such job.

    """
    row = (await connection.execute(_STANDING, {"id": job_id})).one_or_none()
    if row is None:
        message = f"there is no job {job_id}"
        raise NotFoundError(message)
    return LimitStanding(
        concurrency=row.concurrency,
        in_flight=row.in_flight,
        rate=_rate_of(row),
        next_at=row.next_at,
        key_limit=None if row.concurrency_key is None else row.per_key_concurrency or DEFAULT_PER_KEY,
        holders=row.holders,
    )


async def shut_for(connection: asyncpg.Connection[asyncpg.Record], queues: Sequence[str]) -> list[tuple[str, float]]:
    """Return those of the queues whose rate allows no start now, each with the seconds until it does."""
    return [(row["name"], row["seconds"]) for row in await connection.fetch(_SHUT, queues)]


async def tidy_starts(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Keep the ledger of starts short: what has left its window goes, what is older than ten seconds is joined."""
    await connection.execute(_FORGET)
    await connection.execute(_JOIN)


def _rate_of(row: Row[Any]) -> Rate | None:
    return None if row.rate_limit is None else Rate(row.rate_limit, row.rate_per_seconds)
