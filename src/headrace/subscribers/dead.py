"""Dead deliveries, as an operator looks at them: what went wrong how often, and under which version of the code.

Owns the reading of `dead_deliveries`: groups by fingerprint and release, and the deliveries of one fingerprint, each
with the error of its last attempt. The database keeps that table true by a trigger, whichever way a job dies, is tried
again, is cancelled or leaves the record; a delivery of a webhook is one of the subscription `webhook:<id>`. Never count
dead jobs by their tags: of a hundred thousand that takes seconds, of groups here a fraction of one.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.cursors import place_of
from headrace.errors import FieldError, InvalidInputError, NotFoundError

_KNOWN: Final = text("""
    SELECT EXISTS (SELECT FROM subscriptions WHERE name = :name)
        OR EXISTS (SELECT FROM webhooks WHERE 'webhook:' || id = :name)
        OR EXISTS (SELECT FROM dead_deliveries WHERE subscription = :name)
""")

_COLUMNS: Final = """
    d.job_id, d.event_id, nullif(d.type, '') AS type, e.subject, d.fingerprint, nullif(d.release, '') AS release,
    d.died_at, j.attempt, CAST(j.args->>'replay' AS uuid) AS replay_id,
    coalesce(a.type, '') AS error_type, coalesce(a.message, '') AS message, coalesce(a.trace_id, j.trace_id) AS trace_id
"""
_JOINED: Final = """
    JOIN jobs j ON j.id = d.job_id
    LEFT JOIN event_log e ON e.id = d.event_id
    LEFT JOIN LATERAL (SELECT * FROM job_attempts WHERE job_id = d.job_id ORDER BY fence DESC LIMIT 1) a ON true
"""

# Plan: the groups come in the order of dead_deliveries_groups, whose entries hold all that is asked; the example of
# each is the last entry of its group.
_GROUPS: Final = text(f"""
    WITH found AS (
        SELECT fingerprint, release, count(*) AS count, min(died_at) AS first_at, max(died_at) AS last_at
        FROM dead_deliveries WHERE subscription = :name GROUP BY fingerprint, release),
    page AS (
        SELECT * FROM found
        WHERE CAST(:last_at AS timestamptz) IS NULL
           OR (last_at, fingerprint, release) < (:last_at, :fingerprint, :release)
        ORDER BY last_at DESC, fingerprint DESC, release DESC LIMIT :limit)
    SELECT g.count, g.first_at, g.last_at, {_COLUMNS}
    FROM page g
    CROSS JOIN LATERAL (
        SELECT * FROM dead_deliveries o
        WHERE o.subscription = :name AND o.fingerprint = g.fingerprint AND o.release = g.release
        ORDER BY o.job_id DESC LIMIT 1) d
    {_JOINED}
    ORDER BY g.last_at DESC, g.fingerprint DESC, g.release DESC
""")  # noqa: S608 - composed of constants

_ITEMS: Final = text(f"""
    SELECT {_COLUMNS}
    FROM (SELECT * FROM dead_deliveries
          WHERE subscription = :name AND fingerprint = :fingerprint
            AND (CAST(:release AS text) IS NULL OR release = :release)
            AND (CAST(:before AS uuid) IS NULL OR job_id < :before)
          ORDER BY job_id DESC LIMIT :limit) d
    {_JOINED}
    ORDER BY d.job_id DESC
""")  # noqa: S608 - composed of constants


class DeadDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery that nobody tries again by itself."""

    job_id: UUID
    """The delivery's job: `GET /v1/jobs/{id}` has every attempt with its traceback."""
    event_id: UUID
    type: str | None
    """The event's; null where the event has left the record."""
    subject: str | None
    fingerprint: str
    release: str | None
    """The version of the code that failed; null where it was not kept."""
    died_at: datetime
    attempts: int
    replay_id: UUID | None
    error_type: str
    message: str
    trace_id: str


class Kind(msgspec.Struct, frozen=True):
    """Which deaths are the same; of every release where None is given."""

    fingerprint: str
    release: str | None = None


class DeadGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Deliveries of one subscription that died in the same way under the same version of the code."""

    fingerprint: str
    release: str | None
    count: int
    first_at: datetime
    last_at: datetime
    error_type: str
    message: str
    """The newest one's, as the type is."""
    example: DeadDelivery

    @property
    def place(self) -> str:
        """Where it stands in the listing."""
        return f"{self.last_at.isoformat()} {self.fingerprint} {self.release or ''}"


async def dead_groups(
    connection: AsyncConnection, name: str, *, limit: int, cursor: str | None = None
) -> list[DeadGroup]:
    """Return the groups of a subscription's dead deliveries, those first that grew last.

    Raises:
        NotFoundError: there is no such subscription.
        InvalidInputError: the cursor is none of this listing.

    """
    await require_known(connection, name)
    last_at, fingerprint, release = _place(cursor)
    asked = {"name": name, "limit": limit, "last_at": last_at, "fingerprint": fingerprint, "release": release}
    return [_group(row) for row in await connection.execute(_GROUPS, asked)]


async def dead_deliveries(
    connection: AsyncConnection, name: str, kind: Kind, *, limit: int, before: UUID | None = None
) -> list[DeadDelivery]:
    """Return dead deliveries of one kind, those that failed first last.

    Raises:
        NotFoundError: there is no such subscription.

    """
    await require_known(connection, name)
    asked = {"name": name, "fingerprint": kind.fingerprint, "release": kind.release, "before": before, "limit": limit}
    return [_delivery(row) for row in await connection.execute(_ITEMS, asked)]


async def require_known(connection: AsyncConnection, name: str) -> None:
    """Refuse a name that no subscription has, or had.

    Raises:
        NotFoundError: there is none.

    """
    if not await connection.scalar(_KNOWN, {"name": name}):
        message = f"there is no subscription {name}"
        raise NotFoundError(message)


def _place(cursor: str | None) -> tuple[datetime | None, str, str]:
    place = place_of(cursor)
    if place is None:
        return None, "", ""
    last_at, _, rest = place.partition(" ")
    fingerprint, _, release = rest.partition(" ")
    try:
        moment = datetime.fromisoformat(last_at)
    except ValueError as error:
        wrong = FieldError("cursor", "this is no cursor of this listing: give back `next_cursor` as it came")
        raise InvalidInputError(wrong.message, (wrong,)) from error
    if moment.tzinfo is None:
        wrong = FieldError("cursor", "this is no cursor of this listing: give back `next_cursor` as it came")
        raise InvalidInputError(wrong.message, (wrong,))
    return moment, fingerprint, release


def _group(row: Row[Any]) -> DeadGroup:
    example = _delivery(row)
    return DeadGroup(
        fingerprint=example.fingerprint,
        release=example.release,
        count=row[0],
        first_at=row.first_at,
        last_at=row.last_at,
        error_type=example.error_type,
        message=example.message,
        example=example,
    )


def _delivery(row: Row[Any]) -> DeadDelivery:
    return DeadDelivery(
        job_id=row.job_id,
        event_id=row.event_id,
        type=row.type,
        subject=row.subject,
        fingerprint=row.fingerprint,
        release=row.release,
        died_at=row.died_at,
        attempts=row.attempt,
        replay_id=row.replay_id,
        error_type=row.error_type,
        message=row.message,
        trace_id=row.trace_id,
    )
