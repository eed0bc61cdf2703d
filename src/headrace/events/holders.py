"""Who holds the lanes: which subscription keeps how much in Redis from being trimmed, and since when.

Owns the arithmetic. A lane is trimmed up to where its slowest subscription is, so that one alone holds what lies
between it and the next slowest, or the lane's end. That is what leaves when it catches up, or is forgotten. A
subscription that no live process runs holds for ever, and is named as such. Never ask Redis: it does not know who
should read.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# Checkpoints are few: one row for each subscription and lane.
HELD: Final = """
    SELECT subscription, sum(coalesce(next, head) - position)::bigint AS events FROM (
        SELECT c.subscription, c.position, l.head,
               row_number() OVER slowest AS place, lead(c.position) OVER slowest AS next
        FROM checkpoints AS c JOIN lanes AS l ON l.lane = c.lane
        WINDOW slowest AS (PARTITION BY c.lane ORDER BY c.position, c.subscription)) AS ranked
    WHERE place = 1 AND coalesce(next, head) > position GROUP BY subscription
"""
"""How many events each holder holds: `subscription` and `events`."""

_BY_SUBSCRIPTION: Final = text(HELD)

_HOLDERS: Final = text(f"""
    SELECT s.name, s.kind, s.paused, held.events AS holds_trimming, behind.events AS lag, behind.since,
           EXISTS (SELECT FROM processes AS p
                   WHERE p.role = 'consume' AND s.name = ANY(p.tasks) AND p.expires_at > now()) AS declared
    FROM ({HELD}) AS held
    JOIN subscriptions AS s ON s.name = held.subscription
    CROSS JOIN LATERAL (
        SELECT sum(l.head - c.position)::bigint AS events, max(c.updated_at) AS since
        FROM checkpoints AS c JOIN lanes AS l ON l.lane = c.lane
        WHERE c.subscription = s.name) AS behind
    ORDER BY held.events DESC, s.name
""")  # noqa: S608 - both parts are ours


class Holder(msgspec.Struct, frozen=True):
    """A subscription that keeps lanes from being trimmed."""

    name: str
    kind: str
    paused: bool
    holds_trimming: int
    """Events that Redis holds for it alone."""
    lag: int
    """Events that it has yet to pass."""
    since: datetime
    """When one of its checkpoints last moved."""
    declared: bool
    """Whether a live process runs it."""


async def held_by_subscription(connection: AsyncConnection) -> dict[str, int]:
    """Return how many events each holder holds."""
    return {row.subscription: row.events for row in await connection.execute(_BY_SUBSCRIPTION)}


async def list_holders(connection: AsyncConnection) -> list[Holder]:
    """Return those that hold anything, the one that holds most first."""
    return [Holder(**row._asdict()) for row in await connection.execute(_HOLDERS)]
