"""Held keys, step by step: what a subscriber that keeps order has waiting behind an event that failed.

Owns what consumers do about held keys, without lanes and leases: nobody else is there. Never deliver an event of a key
that its job blocks.
"""

from __future__ import annotations

from typing import Final

from headrace.database.driver import borrowed
from headrace.database.record import Record
from headrace.events.model import RecordedEvent
from headrace.subscribers.held_keys import IS_OPEN, next_waiting, no_longer_waiting

_OPEN: Final = f"""
    SELECT k.subscription, k.key FROM held_keys AS k JOIN subscriptions AS s ON s.name = k.subscription
    WHERE NOT s.paused AND {IS_OPEN} ORDER BY k.since, k.key
"""  # noqa: S608 - composed of constants
_PARK: Final = """
    INSERT INTO waiting_events (subscription, key, generation, position, event_id, lane)
    SELECT subscription, key, 1, $3, $4, $5 FROM held_keys WHERE subscription = $1 AND key = $2
    RETURNING true
"""
_FREE: Final = "DELETE FROM held_keys WHERE subscription = $1 AND key = $2"
_ANY_LANE: Final = (-1, 0)


async def waits_behind(record: Record, subscription: str, event: RecordedEvent) -> bool:
    """Let an event wait where its key is held; tell whether it does."""
    async with borrowed(record.engine) as connection:
        return bool(await connection.fetchval(_PARK, subscription, event.key, event.position, event.id, event.lane))


async def next_open(record: Record) -> tuple[str, RecordedEvent] | None:
    """Return the first event that waits behind a key which nothing blocks, and whose it is; keys without are let go."""
    async with borrowed(record.engine) as connection:
        for subscription, key in await connection.fetch(_OPEN):
            while found := await next_waiting(connection, subscription, key, taken=_ANY_LANE, limit=1):
                (waiting,) = found
                if waiting.event is not None:
                    return subscription, waiting.event
                await no_longer_waiting(connection, subscription, [waiting.event_id])
            await connection.execute(_FREE, subscription, key)
    return None
