"""Events in the order of their lane, as the record has them.

Owns the reading of `lane_log`: which event stands at which position. Positions of a lane are dense, so what should be
there is known without looking; an event that retention has dropped from the log leaves a position without an event.
The number of lanes may change, and a key's lane with it: whoever reads the log from further back follows its stretches.
Never give a position here: only the relay does.
"""

from __future__ import annotations

import asyncpg
import msgspec

from headrace.events.model import RecordedEvent

COLUMNS = """e.id, e.type, e.version, e.source, e.source_id, e.subject, placed.lane, placed.position,
    e.time, e.created_at, e.data::text, e.traceparent, e.attributes::text"""
"""What `RecordedEvent` is made of, in its order, from `event_log AS e` and a `placed` with lane, position, event_id."""

_AFTER = f"""
    SELECT {COLUMNS}
    FROM (SELECT lane, position, event_id FROM lane_log
          WHERE lane = $1 AND position > $2 ORDER BY position LIMIT $3) AS placed
    LEFT JOIN event_log AS e ON e.id = placed.event_id
    ORDER BY placed.position
"""  # noqa: S608 - the columns are ours

_STRETCHES = """
    SELECT s.generation, s.lane, s.after, coalesce(s.upto, l.head)
    FROM lane_stretches AS s LEFT JOIN lanes AS l ON l.lane = s.lane AND s.upto IS NULL
    ORDER BY s.generation, s.lane
"""


class Stretch(msgspec.Struct, frozen=True):
    """The positions of a lane above `after`, up to `upto`, that were given while the number of lanes was the same.

    All events of a key in one generation are on one lane, and before those that it has in the next.
    """

    generation: int
    lane: int
    after: int
    upto: int


async def stretches(connection: asyncpg.Connection[asyncpg.Record]) -> list[Stretch]:
    """Return all stretches of the log up to the present heads, in an order in which no key overtakes itself."""
    return [Stretch(*row) for row in await connection.fetch(_STRETCHES)]


def placed_event(row: asyncpg.Record) -> tuple[int, RecordedEvent | None]:
    """Return the position of a row of `COLUMNS` and its event, None where retention has dropped it."""
    return row[7], RecordedEvent(*row) if row[0] is not None else None


async def events_after(
    connection: asyncpg.Connection[asyncpg.Record], lane: int, position: int, *, limit: int
) -> list[tuple[int, RecordedEvent | None]]:
    """Return the events of a lane that follow a position, with theirs: at most `limit`, as far as they are dense."""
    found = [placed_event(row) for row in await connection.fetch(_AFTER, lane, position, limit)]
    return [event for place, event in enumerate(found) if event[0] == found[0][0] + place]
