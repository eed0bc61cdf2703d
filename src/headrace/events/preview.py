"""What a subscription would have been given: patterns and a filter, asked of the events of a time that is over.

Owns the walk over the log, newest first, a batch of ids at a time, each by a statement of its own, so that neither a
connection nor the loop is held for long. It ends at a number of events or seconds and says so: its counts are then
those of the newest part. Types and filter are asked as subscriptions ask them; of a type that no application declares,
as it stands on record. Never change or deliver anything here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NoReturn
from uuid import UUID

import asyncpg
import msgspec

from headrace.clock import first_id_at, now, time_of
from headrace.database.driver import borrowed
from headrace.database.record import Record
from headrace.errors import FieldError, InvalidInputError
from headrace.events.filters import Filter
from headrace.events.patterns import matches
from headrace.events.reading import Reading
from headrace.events.registry import EventType
from headrace.events.shapes import has_field, schema_of

BATCH: Final = 1_000
MOST_EVENTS: Final = 500_000
MOST_SECONDS: Final = 10.0
MOST_EXAMPLES: Final = 10

_EARLIEST: Final = datetime(1970, 1, 2, tzinfo=UTC)
_LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC)
_DAY: Final = timedelta(days=1)

# Plan: a range of the primary key, read backwards, in the partitions of the time; data are fetched where a filter asks.
_NEWEST: Final = """
    SELECT id, type, version, CASE WHEN type_matches(type, $3) THEN CASE WHEN $4 THEN data::text ELSE '{}' END END
    FROM event_log WHERE id >= $1 AND id < $2 ORDER BY id DESC LIMIT $5
"""


class Window(msgspec.Struct, frozen=True):
    """A time, from one moment to before another."""

    from_time: datetime
    to_time: datetime


class Wish(msgspec.Struct, frozen=True):
    """What a subscription would name."""

    types: tuple[str, ...]
    filter: Filter | None
    window: Window


class Bounds(msgspec.Struct, frozen=True):
    """When a preview ends early."""

    events: int = MOST_EVENTS
    seconds: float = MOST_SECONDS
    batch: int = BATCH


class OfType(msgspec.Struct, frozen=True):
    """How many events of a type there were, and how many of them are meant."""

    matched: int
    of: int


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """What would have been given, of what there was."""

    matched: int
    of: int
    """All events of the time that was looked at, of whatever type."""
    by_type: dict[str, OfType]
    """The types that the patterns meet: the declared ones, and others on record."""
    examples: list[UUID]
    """The newest events that are meant, ten at most, by the record's ids."""
    from_time: datetime
    to_time: datetime
    looked_from: datetime
    """Where the counts begin: later than `from_time` where it was cut."""
    cut: str | None
    """Why not all of the time was looked at; null where it was."""
    unknown_fields: list[str]
    """Fields that the filter asks for and none of the declared types has."""


class _Row(msgspec.Struct, frozen=True):
    id: UUID
    type: str
    version: int
    data: str


def window_of(from_time: datetime | None, to_time: datetime | None) -> Window:
    """Return the time that is meant: yesterday (UTC) by default, up to now where only the beginning is given.

    Raises:
        InvalidInputError: it ends before it begins, or lies out of all bounds.

    """
    for field, moment in (("from_time", from_time), ("to_time", to_time)):
        if moment is not None and not _EARLIEST <= moment <= _LATEST:
            _refuse(field, "this must lie between the years 1970 and 9999")
    if from_time is None:
        last = to_time or now().replace(hour=0, minute=0, second=0, microsecond=0)
        return Window(last - _DAY, last)
    last = to_time or now()
    if last <= from_time:
        _refuse("to_time" if to_time else "from_time", "the time must begin before it ends")
    return Window(from_time, last)


def _refuse(field: str, message: str) -> NoReturn:
    told = f"{field}: {message}"
    raise InvalidInputError(told, (FieldError(field, message),))


async def preview(record: Record, events: Mapping[str, EventType], wish: Wish, bounds: Bounds | None = None) -> Preview:
    """Count the events of a time that a subscription with these types and this filter would have been given."""
    walk = _Walk(events, wish)
    bound = bounds or Bounds()
    ends_at = time.monotonic() + bound.seconds
    first, before = first_id_at(wish.window.from_time), first_id_at(wish.window.to_time)
    cut: str | None = None
    while cut is None:
        limit = min(bound.batch, bound.events - walk.seen)
        async with borrowed(record.engine) as connection:
            rows = await connection.fetch(_NEWEST, first, before, list(wish.types), wish.filter is not None, limit)
        walk.take(rows)
        if len(rows) < limit:
            break
        before = rows[-1]["id"]
        if walk.seen >= bound.events:
            cut = f"only the newest {walk.seen} events were looked at"
        elif time.monotonic() >= ends_at:
            cut = f"only the {walk.seen} events that were read within {bound.seconds:g} s were looked at"
        await asyncio.sleep(0)  # others have their turn
    return walk.told(wish, cut, wish.window.from_time if cut is None else time_of(before))


class _Walk:
    """What was seen of the log."""

    def __init__(self, events: Mapping[str, EventType], wish: Wish) -> None:
        self._met = met = {name: event for name, event in events.items() if matches(wish.types, name)}
        self._reading = Reading(met.values())
        self._filter = wish.filter
        self._of = dict.fromkeys(sorted(met), 0)
        self._matched: dict[str, int] = {}
        self._examples: list[UUID] = []
        self._unknown = [] if wish.filter is None else _unknown(wish.filter, met.values())
        self.seen = 0

    def take(self, rows: Sequence[asyncpg.Record]) -> None:
        """Count a batch."""
        self.seen += len(rows)
        for identity, kind, version, data in rows:
            if data is None:
                continue
            self._of[kind] = self._of.get(kind, 0) + 1
            if self._meets(_Row(identity, kind, version, data)):
                self._matched[kind] = self._matched.get(kind, 0) + 1
                if len(self._examples) < MOST_EXAMPLES:
                    self._examples.append(identity)

    def _meets(self, row: _Row) -> bool:
        if self._filter is None:
            return True
        return self._reading.meets(self._filter, row) if row.type in self._met else self._filter.matches(row.data)

    def told(self, wish: Wish, cut: str | None, looked_from: datetime) -> Preview:
        """Return what was counted."""
        return Preview(
            matched=sum(self._matched.values()),
            of=self.seen,
            by_type={kind: OfType(self._matched.get(kind, 0), count) for kind, count in self._of.items()},
            examples=self._examples,
            from_time=wish.window.from_time,
            to_time=wish.window.to_time,
            looked_from=looked_from,
            cut=cut,
            unknown_fields=self._unknown,
        )


def _unknown(asked: Filter, events: Iterable[EventType]) -> list[str]:
    schemas = [schema_of(event) for event in events]
    return [path for path in sorted(asked.fields) if not any(has_field(schema, path) for schema in schemas)]
