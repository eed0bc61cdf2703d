"""What was mended on the belt, on record.

Owns the table `belt_mends`, one row for each reason: how often the belt was found to differ from the record, and by how
many entries. Relay and consumers add to it when they mend; `/metrics` reads it. It is no history and never pruned: the
logs have each case. Never read the belt to fill it, and never let it decide anything.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


class Mend(StrEnum):
    """Why something had to be mended."""

    STREAM_MISSING = "stream_missing"
    """A lane's stream was not there: Redis was emptied, restarted without its disk, or replaced."""
    STREAM_BEHIND = "stream_behind"
    """A lane's stream ended before its lane: an older copy, a cut tail, or a relay that died before its append."""
    STREAM_AHEAD = "stream_ahead"
    """A lane's stream held what the record does not: somebody else wrote to it."""
    WRONG_TYPE = "wrong_type"
    """Another kind of key stood where a lane's stream should be."""
    GROUP_MISSING = "group_missing"
    """A subscription's group, or its lane's stream, was not there."""
    GROUP_AHEAD = "group_ahead"
    """A subscription's group had been given, or moved past, what its owner never got."""
    ENTRIES_MISSING = "entries_missing"
    """The stream did not bring what the record has: it was read from the record."""
    JOBS_LOST = "jobs_lost"
    """Released jobs were on no queue's stream any more."""


_ADD: Final = """
    INSERT INTO belt_mends AS b (reason, times, entries) VALUES ($1, 1, $2)
    ON CONFLICT (reason) DO UPDATE SET times = b.times + 1, entries = b.entries + excluded.entries, last_at = now()
"""

_ALL: Final = text("SELECT reason, times::float8 AS times, entries::float8 AS entries FROM belt_mends")


async def note_mend(connection: asyncpg.Connection[asyncpg.Record], reason: Mend, entries: int = 0) -> None:
    """Count one mend, and how many entries it put back."""
    await connection.execute(_ADD, reason.value, entries)


async def mends_by_reason(connection: AsyncConnection) -> dict[str, tuple[float, float]]:
    """Return for each reason how often something was mended, and how many entries were put back in all."""
    return {row.reason: (row.times, row.entries) for row in await connection.execute(_ALL)}
