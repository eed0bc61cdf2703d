"""Entries of a lane as the events that a subscription listens to.

Owns their reading. An entry whose bytes are no event is not the event's fault: the record has it, and is asked; where
the record has no such position, somebody else has written the entry, and nothing from there on is read. What the
subscription does not listen to is decoded no further than its type. Never drop an entry that is on record: each of its
positions must come to an end.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from headrace.database.driver import borrowed
from headrace.database.record import Record
from headrace.events.lane import events_after
from headrace.events.model import RecordedEvent
from headrace.streams.payload import PoisonError, Wanted
from headrace.streams.transport import Entry
from headrace.telemetry.messages import Batch
from headrace.telemetry.names import batch_destination

logger = structlog.get_logger(__name__)

Item = tuple[int, RecordedEvent | None]
"""A position, and its event; None where the subscription has nothing to do with it."""


async def events_in(record: Record, lane: int, entries: Sequence[Entry], wanted: Wanted) -> list[Item]:
    """Return the positions of the entries, with the event of each that holds a wanted one.

    They end before the first entry that is no event and has no place on record: what comes there is still to come.
    """
    items: list[Item] = []
    for entry in entries:
        try:
            event = wanted.read(entry.payload) if entry.payload else None
        except PoisonError as error:
            logger.warning("entry_unreadable", lane=lane, position=entry.position, error=str(error))
            if (placed := await _from_record(record, lane, entry.position)) is None:
                break
            event = placed[1] if placed[1] is not None and wanted.means(placed[1]) else None
        items.append((entry.position, event))
    return items


async def _from_record(record: Record, lane: int, position: int) -> Item | None:
    async with borrowed(record.engine) as connection:
        found = await events_after(connection, lane, position - 1, limit=1)
    return found[0] if found and found[0][0] == position else None


def batch_of(events: Sequence[RecordedEvent], group: str, lane: int | None = None) -> Batch:
    """Return what a span tells of events that travel together."""
    destination = batch_destination({event.type for event in events})
    return Batch(destination, [event.traceparent for event in events], lane=lane, group=group)
