"""Where a time lies on a lane.

Owns the way from a time to a position without reading what lies between: by halves, over the key of the log. Positions
are given when a transaction has ended and times when it began, so neither follows the other exactly: a place is looked
for with a day to spare, and where it has to be exact, read on from there, some rows at a time. A lane that retention
has shortened begins where it begins now. Never take a position for a time.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import asyncpg
from msgspec.structs import replace

from headrace.clock import first_id_at
from headrace.events.lane import Stretch

SLACK: Final = timedelta(days=1)
"""How long the transaction of an event may have been open at most, as retention has it too."""

ROWS: Final = 20_000
"""Rows of the log that one statement reads at most."""

_AT: Final = """
    SELECT l.position, e.created_at FROM lane_log l LEFT JOIN event_log e ON e.id = l.event_id
    WHERE l.lane = $1 AND l.position BETWEEN $2 AND $3 ORDER BY l.position LIMIT 1
"""

# Plan: a range of lane_log_pkey, which ends with the rows that are asked for.
_FIRST: Final = """
    SELECT max(position) AS reached, min(position) FILTER (WHERE event_id >= $4) AS first
    FROM (SELECT position, event_id FROM lane_log
          WHERE lane = $1 AND position > $2 AND position <= $3 ORDER BY position LIMIT $5) AS placed
"""


async def last_recorded_before(
    connection: asyncpg.Connection[asyncpg.Record], stretch: Stretch, bound: datetime
) -> int:
    """Look for the last position before a bound by halves; what retention has dropped lies before any."""
    low, high = stretch.after, stretch.upto
    while low < high:
        middle = (low + high + 1) // 2
        row = await connection.fetchrow(_AT, stretch.lane, middle, high)
        if row is not None and (row["created_at"] is None or row["created_at"] < bound):
            low = row["position"]
        else:
            high = middle - 1
    return low


async def end_before(
    connection: asyncpg.Connection[asyncpg.Record], stretch: Stretch, moment: datetime, *, rows: int = ROWS
) -> int:
    """Return the position before the first event that was published at a moment or later; the end where none was."""
    bound = first_id_at(moment)
    left = replace(stretch, after=await last_recorded_before(connection, stretch, moment - SLACK))
    while True:
        row = await connection.fetchrow(_FIRST, left.lane, left.after, left.upto, bound, rows)
        if row is None or row["reached"] is None:
            return stretch.upto
        if row["first"] is not None:
            return int(row["first"]) - 1
        left = replace(left, after=row["reached"])
