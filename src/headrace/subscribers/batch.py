"""Entries of a lane as the events that a subscription listens to.

Owns their reading. An entry whose bytes are no event is not the event's fault: the record has it, and is asked. What
the subscription does not listen to is decoded no further than its type. Never drop an entry: each of its positions must
come to an end.
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
    """Return the positions of the entries, with the event of each that holds a wanted one."""
    items: list[Item] = []
    for entry in entries:
        try:
            event = wanted.read(entry.payload) if entry.payload else None
        except PoisonError as error:
            logger.warning("entry_unreadable", lane=lane, position=entry.position, error=str(error))
            event = await _from_record(record, lane, entry.position)
            event = event if event is not None and event.type in wanted.types else None
        items.append((entry.position, event))
    return items


async def _from_record(record: Record, lane: int, position: int) -> RecordedEvent | None:
    async with borrowed(record.engine) as connection:
        found = await events_after(connection, lane, position - 1, limit=1)
    return found[0][1] if found and found[0][0] == position else None


def batch_of(events: Sequence[RecordedEvent], group: str, lane: int | None = None) -> Batch:
    """Return what a span tells of events that travel together."""
    destination = batch_destination({event.type for event in events})
    return Batch(destination, [event.traceparent for event in events], lane=lane, group=group)
