"""The record, read again: the events that a replay or a rebuild goes through.

Owns the reading of the log's stretches by what is wanted of them: some positions, some types, some time, some data. It
reads a span of positions at a time, so that no statement is long, however much lies between two events that are wanted.
A time is that of the record (`created_at`); because a transaction may be open for long before its events get their
positions, the positions of a time are looked for with a day to spare, and each event is asked for its own time.
Never take a position for a time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import asyncpg
import msgspec

from headrace.events.lane import COLUMNS, Stretch, placed_event
from headrace.events.model import RecordedEvent
from headrace.events.patterns import like
from headrace.events.seeking import SLACK, last_recorded_before

_COUNTED: Final = 20_000
"""Positions that are counted by one statement."""

_READ: Final = 1_000
"""Positions that are read at once where their data decide."""

_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC)

# Plan: a range of lane_log_pkey, and by OFFSET 0 one lookup per event in the partition of its id; a join would be free
# to scan the whole log for each span.
_WANTED: Final = """
    FROM (SELECT lane, position, event_id FROM lane_log
          WHERE lane = $1 AND position > $2 AND position <= $3) AS placed
    CROSS JOIN LATERAL (SELECT * FROM event_log WHERE id = placed.event_id OFFSET 0) AS e
    WHERE e.type LIKE ANY ($4::text[]) AND e.type LIKE ANY ($5::text[]) AND e.created_at >= $6 AND e.created_at < $7
"""
_EVENTS: Final = f"SELECT {COLUMNS} {_WANTED} ORDER BY placed.position LIMIT $8"
_COUNT: Final = f"SELECT count(*) {_WANTED}"


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of a stretch."""

    patterns: Sequence[str]
    """The types that are listened to."""
    asked: Sequence[str] = ("*",)
    """Those of them that are asked for."""
    from_time: datetime | None = None
    to_time: datetime | None = None
    means: Callable[[RecordedEvent], bool] | None = None
    """Whether an event is meant, by its data; None where data do not decide."""


async def events_of(
    connection: asyncpg.Connection[asyncpg.Record], stretch: Stretch, wish: Wish, *, limit: int
) -> tuple[int, list[RecordedEvent]]:
    """Return the first wanted events of a stretch, at most `limit`, and up to where there are no others."""
    rows = await connection.fetch(_EVENTS, *_parameters(stretch, wish), limit)
    found = [(position, event) for position, event in map(placed_event, rows) if event is not None]
    reached = found[-1][0] if len(found) == limit else stretch.upto
    return reached, [event for _, event in found if wish.means is None or wish.means(event)]


async def count_of(connection: asyncpg.Connection[asyncpg.Record], stretches: Sequence[Stretch], wish: Wish) -> int:
    """Return how many wanted events there are."""
    counted = 0
    for stretch in stretches:
        if wish.means is None:
            for part in parts_of(stretch, _COUNTED):
                counted += await connection.fetchval(_COUNT, *_parameters(part, wish))
        else:
            async for events in _all_of(connection, stretch, wish):
                counted += len(events)
    return counted


def parts_of(stretch: Stretch, size: int) -> Sequence[Stretch]:
    """Cut a stretch into parts of so many positions."""
    return [
        msgspec.structs.replace(stretch, after=after, upto=min(after + size, stretch.upto))
        for after in range(stretch.after, stretch.upto, size)
    ]


async def _all_of(
    connection: asyncpg.Connection[asyncpg.Record], stretch: Stretch, wish: Wish
) -> AsyncIterator[list[RecordedEvent]]:
    for part in parts_of(stretch, _READ):
        yield (await events_of(connection, part, wish, limit=_READ + 1))[1]


async def last_before(connection: asyncpg.Connection[asyncpg.Record], stretch: Stretch, moment: datetime) -> int:
    """Return a position of a stretch up to which nothing was recorded at a moment or later: a day's worth too early."""
    return await last_recorded_before(connection, stretch, moment - SLACK)


async def first_after(connection: asyncpg.Connection[asyncpg.Record], stretch: Stretch, moment: datetime) -> int:
    """Return a position of a stretch after which nothing was recorded before a moment: a day's worth too late."""
    return await last_recorded_before(connection, stretch, moment + SLACK)


def _parameters(stretch: Stretch, wish: Wish) -> tuple[object, ...]:
    return (
        stretch.lane,
        stretch.after,
        stretch.upto,
        [like(pattern) for pattern in wish.patterns],
        [like(pattern) for pattern in wish.asked],
        wish.from_time or _EARLIEST,
        wish.to_time or _LATEST,
    )
