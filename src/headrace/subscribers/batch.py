"""Entries of a lane as the events that a subscription listens to.

Owns their reading. An entry whose bytes are no event is not the event's fault: the record has it, and is asked. What
the subscription does not listen to is decoded no further than its type. Never drop an entry: each of its positions must
come to an end.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import structlog

from headrace.database.driver import borrowed
from headrace.database.record import Record
from headrace.events.lane import events_after
from headrace.events.model import RecordedEvent
from headrace.streams.groups import Entry
from headrace.streams.payload import PoisonError, decode, type_of
from headrace.telemetry.messages import Batch
from headrace.telemetry.names import batch_destination

logger = structlog.get_logger(__name__)


async def event_of(record: Record, lane: int, entry: Entry, types: Collection[str]) -> RecordedEvent | None:
    """Return the event to handle, None where the entry holds none of these types, or one that retention has dropped."""
    if not entry.payload:
        return None
    try:
        return decode(entry.payload) if type_of(entry.payload) in types else None
    except PoisonError as error:
        logger.warning("entry_unreadable", lane=lane, position=entry.position, error=str(error))
    async with borrowed(record.engine) as connection:
        found = await events_after(connection, lane, entry.position - 1, limit=1)
    event = found[0][1] if found else None
    return event if event is not None and event.type in types else None


def batch_of(events: Sequence[RecordedEvent], group: str, lane: int | None = None) -> Batch:
    """Return what a span tells of events that travel together."""
    destination = batch_destination({event.type for event in events})
    return Batch(destination, [event.traceparent for event in events], lane=lane, group=group)
