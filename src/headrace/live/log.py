"""The log from marks onwards, in portions: for who was away, and for what Redis did not bring.

Owns the reading of many lanes at once in an order in which no key overtakes itself: stretch by stretch where the number
of lanes has changed, a lane's events in their order always, and those of several lanes about as they were published.
Events that are not asked for are passed in PostgreSQL. What retention has dropped is said, not hidden. It reads over
connections of its own, few of them, so that ten thousand who come back at once wait for each other and for nobody else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from heapq import merge
from itertools import groupby
from typing import Any, Final

import asyncpg
import msgspec

from headrace.database.driver import ONE_BY_ONE
from headrace.events.lane import COLUMNS, Stretch, placed_event, stretches
from headrace.events.model import RecordedEvent
from headrace.events.seeking import end_before
from headrace.live.marks import Marks

PORTION: Final = 500
"""Positions that one statement looks at, at most."""

_CONNECTIONS: Final = 3
_PATIENCE_SECONDS: Final = 8.0

_READ: Final = f"""
    SELECT {COLUMNS}
    FROM unnest($1::smallint[], $2::bigint[], $3::bigint[]) AS wanted(lane, after, upto)
    CROSS JOIN LATERAL (
        SELECT lane, position, event_id FROM lane_log
        WHERE lane = wanted.lane AND position > wanted.after AND position <= wanted.upto
        ORDER BY position LIMIT $4) AS placed
    LEFT JOIN event_log AS e ON e.id = placed.event_id AND ($5::text[] IS NULL OR type_matches(e.type, $5))
    ORDER BY placed.lane, placed.position
"""  # noqa: S608 - the columns are ours


class Portion(msgspec.Struct, frozen=True):
    """What follows some marks: the events that were asked for, and how far the log was looked at."""

    events: Sequence[RecordedEvent]
    marks: Marks
    missed: bool
    """Whether the log no longer has everything in between: retention has dropped it."""


class Log:
    """Reads the log over a few connections of its own; get one from `open_log`."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool

    async def present(self) -> Marks:
        """Return where the log ends now."""
        async with self._pool.acquire() as connection:
            return _ends(await stretches(connection))

    async def since(self, moment: datetime) -> Marks:
        """Return the marks before the first event that was published at that time or later."""
        async with self._pool.acquire() as connection:
            whole = [Stretch(0, lane, 0, end) for lane, end in _ends(await stretches(connection))]
            return Marks([(one.lane, await end_before(connection, one, moment)) for one in whole])

    async def read(
        self, after: Marks, *, upto: Marks | None = None, patterns: Sequence[str] | None = None
    ) -> Portion | None:
        """Return what follows the marks `after`, None where nothing does.

        Args:
            after: what was seen; it is not changed.
            upto: where to end; at the present end of the log by default.
            patterns: the types that are asked for; all by default.

        """
        async with self._pool.acquire() as connection:
            wanted = _wanted(await stretches(connection), after, upto)
            if not wanted:
                return None
            each = max(1, PORTION // len(wanted))
            rows = await connection.fetch(_READ, *zip(*wanted, strict=True), each, patterns)
        return _portion(after, wanted, rows, each)


@asynccontextmanager
async def open_log(database_url: str) -> AsyncIterator[Log]:
    """Open the log for reading; connections are made when they are first needed."""
    pool = asyncpg.create_pool(
        database_url,
        min_size=0,
        max_size=_CONNECTIONS,
        timeout=5,
        command_timeout=_PATIENCE_SECONDS,
        server_settings=ONE_BY_ONE | {"application_name": "headrace live"},
    )
    await pool
    try:
        yield Log(pool)
    finally:
        pool.terminate()


def _ends(found: Sequence[Stretch]) -> Marks:
    ends = Marks()
    for stretch in found:
        ends.reach(stretch.lane, stretch.upto)
    return ends


def _wanted(found: Sequence[Stretch], after: Marks, upto: Marks | None) -> list[tuple[int, int, int]]:
    """Return the lanes of the first generation that has something for us, each with the bounds of it."""
    for _, generation in groupby(found, lambda stretch: stretch.generation):
        bounds = [
            (one.lane, max(one.after, after[one.lane]), one.upto if upto is None else min(one.upto, upto[one.lane]))
            for one in generation
        ]
        if wanted := [bound for bound in bounds if bound[1] < bound[2]]:
            return wanted
    return []


def _portion(after: Marks, wanted: Sequence[tuple[int, int, int]], rows: Sequence[Any], each: int) -> Portion:
    marks, missed, by_lane = after.copy(), False, []
    placed = {lane: list(map(placed_event, found)) for lane, found in groupby(rows, lambda row: row[6])}
    for lane, start, end in wanted:
        found = placed.get(lane, [])
        missed = missed or not found or found[0][0] > start + 1
        marks.reach(lane, found[-1][0] if len(found) == each else end)
        by_lane.append([event for _, event in found if event is not None])
    return Portion(list(merge(*by_lane, key=lambda event: event.id)), marks, missed)
