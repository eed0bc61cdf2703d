"""How the lanes stand: their heads, and a change of their number that is under way.

Owns the reading of `lanes` and `lane_resize` for people. Never decide anything by it: the leading relay does.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_LANES: Final = text("""
    SELECT l.lane, l.head, s.generation FROM lanes l JOIN lane_stretches s ON s.lane = l.lane AND s.upto IS NULL
    ORDER BY l.lane
""")
_RESIZE: Final = text("SELECT wanted, since, held_by::text FROM lane_resize")


class LaneHead(msgspec.Struct, frozen=True):
    """A lane: its last position, and how often the number of lanes had changed, and once more, when it was opened."""

    lane: int
    head: int
    generation: int


class InTheWay(msgspec.Struct, frozen=True):
    """A subscription that has yet to pass events of a lane before the number of lanes can change."""

    subscription: str
    lane: int
    events: int
    stuck: str | None
    """Why it does not go on; null where it does."""


class Resize(msgspec.Struct, frozen=True):
    """A change of the number of lanes that has not happened yet, and who is in its way."""

    wanted: int
    since: datetime
    waits_for: Sequence[InTheWay]


async def lane_heads(connection: AsyncConnection) -> list[LaneHead]:
    """Return the lanes there are."""
    return [LaneHead(*row) for row in await connection.execute(_LANES)]


async def resize_under_way(connection: AsyncConnection) -> Resize | None:
    """Return the change that is under way, None where none is."""
    row = (await connection.execute(_RESIZE)).one_or_none()
    if row is None:
        return None
    return Resize(row.wanted, row.since, msgspec.json.decode(row.held_by, type=tuple[InTheWay, ...]))
