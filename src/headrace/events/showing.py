"""Events as they are shown: CloudEvents 1.0 in JSON, with their place on record.

Owns that one form, which the API, the live tails and the command line share: the producer's id as `id`, the record's
own as `record_id`, extension attributes beside the fields. What Headrace says of an event wins over an extension of
the same name. Never show an event in another form.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from headrace.events.model import RecordedEvent
from headrace.events.queries import Event
from headrace.telemetry.propagation import trace_id_of


class EventShown(msgspec.Struct, frozen=True, kw_only=True):
    """An event as CloudEvents 1.0 has it, and its place; extension attributes stand beside these fields."""

    specversion: str = "1.0"
    id: str
    source: str
    type: str
    subject: str | None
    time: datetime
    datacontenttype: str = "application/json"
    dataversion: int
    data: msgspec.Raw
    record_id: UUID
    lane: int
    position: int | None
    trace_id: str


def shown(event: Event) -> dict[str, Any]:
    """Return an event as it is shown."""
    extensions: dict[str, Any] = msgspec.json.decode(event.attributes)
    own = EventShown(
        id=event.source_id,
        source=event.source,
        type=event.type,
        subject=event.subject,
        time=event.time,
        dataversion=event.version,
        data=event.data,
        record_id=event.id,
        lane=event.lane,
        position=event.position,
        trace_id=event.trace_id,
    )
    return extensions | msgspec.structs.asdict(own)


def shown_on_its_way(event: RecordedEvent) -> bytes:
    """Return an event that has its place as it is shown, as JSON."""
    own = EventShown(
        id=event.source_id,
        source=event.source,
        type=event.type,
        subject=event.subject,
        time=event.time,
        dataversion=event.version,
        data=msgspec.Raw(event.data.encode()),
        record_id=event.id,
        lane=event.lane,
        position=event.position,
        trace_id=trace_id_of(event.traceparent),
    )
    if event.attributes == "{}":
        return msgspec.json.encode(own)
    extensions: dict[str, Any] = msgspec.json.decode(event.attributes)
    return msgspec.json.encode(extensions | msgspec.structs.asdict(own))
