"""What the record says about subscriptions: how far each is on every lane, and what of it failed.

Owns the value `SubscriptionStatus` and its one statement. Lag is arithmetic on positions, head minus checkpoint, and so
right whatever happened to Redis. Never read a group's lag from Redis: it is wrong or absent after deletions.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.database.record import Record
from headrace.errors import NotFoundError
from headrace.events.holders import HELD


class LaneStatus(msgspec.Struct, frozen=True):
    """A subscription on one lane: who reads it, up to where it is handled, and where the lane ends."""

    lane: int
    owner: UUID | None
    position: int
    head: int


class SubscriptionStatus(msgspec.Struct, frozen=True):
    """A subscription as the API shows it."""

    name: str
    types: Sequence[str]
    """Types, and patterns such as `orders.*`."""
    kind: str
    paused: bool
    lag: int
    """Events that it has yet to pass, over all lanes, also those that it does not listen to."""
    in_flight: int
    """Failed deliveries that are being tried again at this moment."""
    retrying: int
    """Failed deliveries that wait for their next attempt."""
    dead: int
    oldest_unhandled_age_seconds: float | None
    last_error: str | None
    """Why a projection waits; None where it does not."""
    lanes: Sequence[LaneStatus]
    waiting: int
    """Events that wait on record behind their key, which their lanes have passed."""
    paused_at: datetime | None = None
    paused_by: str | None = None
    holds_trimming: int = 0
    """Events that Redis holds for it alone."""
    generation: int = 1
    """Of a projection's tables: each rebuild counts it up."""
    rebuilt_at: datetime | None = None
    filter: dict[str, Any] | None = None
    """What the data of an event have to be for it to be handled; null for any."""


_STATUS = f"""
    SELECT s.name, s.types, s.filter::text AS filter, s.kind, s.paused, s.paused_at, s.paused_by,
           s.generation, s.rebuilt_at, lanes.lag, lanes.oldest, lanes.last_error, lanes.lanes,
           coalesce(held.events, 0) AS holds_trimming,
           jobs.in_flight, jobs.retrying,
           (SELECT count(*) FROM dead_deliveries AS x WHERE x.subscription = s.name) AS dead,
           (SELECT count(*) FROM waiting_events AS w WHERE w.subscription = s.name) AS waiting
    FROM subscriptions AS s
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(l.head - c.position), 0) AS lag,
               extract(epoch FROM now() - min(waiting.created_at)) AS oldest,
               min(c.last_error) AS last_error,
               coalesce(jsonb_agg(jsonb_build_object(
                   'lane', l.lane, 'owner', o.holder, 'position', c.position, 'head', l.head) ORDER BY l.lane)
                   FILTER (WHERE l.lane IS NOT NULL), '[]')::text AS lanes
        FROM checkpoints AS c
        JOIN lanes AS l ON l.lane = c.lane
        LEFT JOIN leases AS o ON o.name = 'sub:' || c.subscription || ':' || c.lane AND o.expires_at > now()
        LEFT JOIN lane_log AS g ON l.head > c.position AND g.lane = c.lane AND g.position = c.position + 1
        LEFT JOIN event_log AS waiting ON waiting.id = g.event_id
        WHERE c.subscription = CASE WHEN s.kind = 'webhook' THEN 'headrace.webhooks' ELSE s.name END) AS lanes
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE j.state IN ('queued', 'running')) AS in_flight,
               count(*) FILTER (WHERE j.state IN ('scheduled', 'pending', 'retrying')) AS retrying
        FROM deliveries AS d JOIN jobs AS j ON j.id = d.job_id
        WHERE d.listener = s.name) AS jobs
    LEFT JOIN ({HELD}) AS held ON held.subscription = s.name
"""  # noqa: S608 - both parts are ours
_PAGE = text(_STATUS + "WHERE s.name > :after ORDER BY s.name LIMIT :limit")
_ONE = text(_STATUS + "WHERE s.name = :name")


async def list_subscriptions(record: Record, *, limit: int, after: str = "") -> list[SubscriptionStatus]:
    """Return a page of subscriptions by name, those after the name `after`."""
    async with record.engine.connect() as connection:
        rows = (await connection.execute(_PAGE, {"limit": limit, "after": after})).all()
    return [_status(row) for row in rows]


async def subscription_named(connection: AsyncConnection, name: str) -> SubscriptionStatus:
    """Return one subscription.

    Raises:
        NotFoundError: there is none of this name.

    """
    row = (await connection.execute(_ONE, {"name": name})).one_or_none()
    if row is None:
        message = f"there is no subscription {name}"
        raise NotFoundError(message)
    return _status(row)


def _status(row: Row[Any]) -> SubscriptionStatus:
    return SubscriptionStatus(
        name=row.name,
        types=tuple(row.types),
        kind=row.kind,
        paused=row.paused,
        lag=int(row.lag),
        in_flight=row.in_flight,
        retrying=row.retrying,
        dead=row.dead,
        oldest_unhandled_age_seconds=None if row.oldest is None else float(row.oldest),
        last_error=row.last_error,
        lanes=msgspec.json.decode(row.lanes, type=tuple[LaneStatus, ...]),
        waiting=row.waiting,
        paused_at=row.paused_at,
        paused_by=row.paused_by,
        holds_trimming=row.holds_trimming,
        filter=None if row.filter is None else msgspec.json.decode(row.filter),
        generation=row.generation,
        rebuilt_at=row.rebuilt_at,
    )
