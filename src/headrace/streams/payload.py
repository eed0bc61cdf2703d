"""The payload of a lane's entry: an event in msgpack, as an array.

Owns its encoding and its reading, whole or only as far as the type: most subscriptions listen to few types, and what
they do not listen to is not worth decoding. The order of the fields is `RecordedEvent`'s; new ones are only ever added
at the end, so that processes of two versions read each other's entries. Never raise anything but `PoisonError` for
bytes that are no event.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from headrace.events.model import RecordedEvent

GONE = b""
"""The payload at a position whose event retention has dropped from the log: there is nothing to handle."""


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


def decode(payload: bytes) -> RecordedEvent:
    """Read a whole event."""
    try:
        return _decode(payload)
    except msgspec.MsgspecError as error:
        message = f"an entry is no event: {error}"
        raise PoisonError(message) from error


def type_of(payload: bytes) -> str:
    """Read the type of an event."""
    try:
        return _decode_heading(payload).type
    except msgspec.MsgspecError as error:
        message = f"an entry is no event: {error}"
        raise PoisonError(message) from error
