"""An event on its way: the value that the record, the belt and the handlers share.

Owns `RecordedEvent`, its place on a lane, and its form on the belt (a msgpack array, data as the JSON text on
record) and to the outside (CloudEvents 1.0, https://github.com/cloudevents/spec, JSON format). Never rewrite
`traceparent` on the way: it names where the event was created.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID
from zlib import crc32

import msgspec

SLOTS = 0x8000


def slot_of(key: str) -> int:
    """Return the slot of an ordering key: the lower 15 bits of the CRC-32 of its UTF-8 bytes.

    A key has the same slot for ever. Its lane is the slot modulo the number of lanes, which only the relay knows.
    """
    return crc32(key.encode()) % SLOTS


class NewEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event that is about to enter the log; `data` is JSON."""

    id: UUID
    type: str
    version: int
    source: str
    source_id: str
    subject: str | None
    time: datetime
    data: msgspec.Raw
    attributes: msgspec.Raw = msgspec.Raw(b"{}")
    """CloudEvents extension attributes, as a JSON object."""

    @property
    def slot(self) -> int:
        """The slot of its subject, or, where it has none, of its id."""
        return slot_of(self.subject or str(self.id))


class RecordedEvent(msgspec.Struct, frozen=True, array_like=True):
    """An event with its place: what a subscriber or a projection is given, and the entry on the belt."""

    id: UUID
    type: str
    version: int
    source: str
    source_id: str
    subject: str | None
    lane: int
    position: int
    time: datetime
    created_at: datetime
    data: str
    """The event's data as JSON text."""
    traceparent: str
    attributes: str = "{}"
    """Its CloudEvents extension attributes, as the text of a JSON object."""

    @property
    def key(self) -> str:
        """The ordering key: events of one key are handled one after the other."""
        return self.subject or str(self.id)


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The CloudEvents 1.0 form of an event, without the extensions that Headrace adds."""

    specversion: str
    id: str
    source: str
    type: str
    subject: str | None = None
    time: datetime | None = None
    datacontenttype: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")
