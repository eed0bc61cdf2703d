"""Who listens to what, on record: subscriptions of every application, removed ones that are not forgotten, webhooks.

Owns the reading of their patterns and filters. Code that is deployed knows its own subscriptions only; the record knows
them all. Never decide here whether one of them may be left.
"""

from __future__ import annotations

import asyncpg
import msgspec

from headrace.events.filters import Filter

_LISTENERS = "SELECT name, kind, types, filter::text FROM subscriptions ORDER BY name"


class Listener(msgspec.Struct, frozen=True):
    """A subscription on record."""

    name: str
    kind: str
    """`subscriber`, `projection` or `webhook`."""
    patterns: tuple[str, ...]
    filter: Filter | None


async def listeners(connection: asyncpg.Connection[asyncpg.Record]) -> list[Listener]:
    """Return all subscriptions on record, by name."""
    rows = await connection.fetch(_LISTENERS)
    return [Listener(name, kind, tuple(types), _filter(written)) for name, kind, types, written in rows]


def _filter(written: str | None) -> Filter | None:
    return None if written is None else Filter.of(msgspec.json.decode(written))
