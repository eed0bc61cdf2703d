"""The inbox: which events a subscription has handled.

Owns the statements over `inbox` that take many events at once: entering those whose subscriber used no transaction, and
asking, before events are handled that may have been handled before, which of them are settled. An event that became a
job, or waits behind its key, counts as settled too: it is handled from there. Never ask row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg

# ON CONFLICT doubles what PostgreSQL does for a row, and hardly ever is there one: it is the second way, not the first.
_ENTER = "INSERT INTO inbox (subscription, event_id) SELECT $1, id FROM unnest($2::uuid[]) AS given(id)"
_ENTER_MISSING = f"{_ENTER} ON CONFLICT DO NOTHING"

_SETTLED = """
    SELECT event_id FROM inbox WHERE subscription = $1 AND event_id = ANY($2::uuid[])
    UNION ALL
    SELECT event_id FROM deliveries WHERE subscription = $1 AND event_id = ANY($2::uuid[])
    UNION ALL
    SELECT event_id FROM waiting_events WHERE subscription = $1 AND event_id = ANY($2::uuid[])
"""


async def enter(connection: asyncpg.Connection[asyncpg.Record], subscription: str, events: Sequence[UUID]) -> None:
    """Note that these events are handled, those that are not noted yet; outside any transaction."""
    try:
        await connection.execute(_ENTER, subscription, events)
    except asyncpg.UniqueViolationError:  # another owner was quicker with some of them: none was written
        await connection.execute(_ENTER_MISSING, subscription, events)


async def settled(
    connection: asyncpg.Connection[asyncpg.Record], subscription: str, events: Sequence[UUID]
) -> set[UUID]:
    """Return those of the events that are handled, have a job, or wait behind their key."""
    return {row["event_id"] for row in await connection.fetch(_SETTLED, subscription, events)}
