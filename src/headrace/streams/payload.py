"""The payload of a lane's entry: an event in msgpack, as an array.

Owns its encoding and its reading, whole or only as far as the type: most subscriptions listen to few types, and what
they do not listen to is not worth decoding. The order of the fields is `RecordedEvent`'s; new ones are only ever added
at the end, so that processes of two versions read each other's entries. Never raise anything but `PoisonError` for
bytes that are no event.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

import msgspec

from headrace.events.model import RecordedEvent

GONE = b""
"""The payload at a position whose event retention has dropped from the log: there is nothing to handle."""


_TYPE_AT = 39
"""One byte of array header, two of string header, 36 of the id."""


class PoisonError(Exception):
    """These bytes are no event."""


class Heading(msgspec.Struct, frozen=True, array_like=True):
    """What is read of an event before it is known whether it matters."""

    id: UUID
    type: str


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(RecordedEvent).decode
_decode_heading = msgspec.msgpack.Decoder(Heading).decode


def encode(event: RecordedEvent | None) -> bytes:
    """Return the payload of an event; `GONE` for one that is no longer on record."""
    return GONE if event is None else _encode(event)


class Wanted:
    """The types that a reader listens to, and the quick way to tell them apart.

    An event begins with its id, always 36 characters long, so its type stands at a fixed place: one comparison of bytes
    finds those that are wanted. That comparison never decides that an event is not: then its type is read.
    """

    def __init__(self, types: Iterable[str]) -> None:
        self.types = frozenset(types)
        self._encoded = tuple(msgspec.msgpack.encode(name) for name in self.types)

    def read(self, payload: bytes) -> RecordedEvent | None:
        """Return the event of a payload, None where its type is not wanted.

        Raises:
            PoisonError: these bytes are no event.

        """
        try:
            if payload.startswith(self._encoded, _TYPE_AT) or _decode_heading(payload).type in self.types:
                return _decode(payload)
        except msgspec.MsgspecError as error:
            message = f"an entry is no event: {error}"
            raise PoisonError(message) from error
        return None
