"""The payload of a lane's entry: an event in msgpack, as an array.

Owns its encoding and its reading, whole or only as far as the type: most subscriptions listen to few types, and what
they do not listen to is not worth decoding. A filter is asked here too, before anybody handles what it leaves out. The
order of the fields is `RecordedEvent`'s; new ones are only ever added at the end, so that processes of two versions
read each other's entries. Never raise anything but `PoisonError` for bytes that are no event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from uuid import UUID

import msgspec

from headrace.events.model import RecordedEvent
from headrace.events.patterns import matches

GONE = b""
"""The payload at a position whose event retention has dropped from the log: there is nothing to handle."""


_TYPE_AT = 39
"""One byte of array header, two of string header, 36 of the id."""


_MOST_TYPES = 4096
"""That are remembered: what an entry says of its type may be anything."""


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
    """What a reader listens to, and the quick way to tell it apart.

    An event begins with its id, always 36 characters long, so its type stands at a fixed place: one comparison of bytes
    finds the types that are known to meet a pattern. That comparison never decides that an event is not wanted: then
    its type is read. What has a wanted type and does not meet the reader's filter is not wanted either.
    """

    def __init__(
        self,
        patterns: Iterable[str],
        *,
        known: Iterable[str] = (),
        meets: Callable[[RecordedEvent], bool] | None = None,
    ) -> None:
        """Listen to types and patterns; `known` are types that meet them, `meets` asks the data of an event."""
        self._patterns = tuple(patterns)
        self._types = dict.fromkeys([*known, *(one for one in self._patterns if "*" not in one)], True)
        self._encoded = tuple(msgspec.msgpack.encode(name) for name in self._types)
        self._meets = meets

    def means(self, event: RecordedEvent) -> bool:
        """Tell whether an event is wanted."""
        return self._has(event.type) and (self._meets is None or self._meets(event))

    def read(self, payload: bytes) -> RecordedEvent | None:
        """Return the event of a payload, None where it is not wanted.

        Raises:
            PoisonError: these bytes are no event.

        """
        try:
            if not payload.startswith(self._encoded, _TYPE_AT) and not self._has(_decode_heading(payload).type):
                return None
            event = _decode(payload)
        except msgspec.MsgspecError as error:
            message = f"an entry is no event: {error}"
            raise PoisonError(message) from error
        return event if self._meets is None or self._meets(event) else None

    def _has(self, event_type: str) -> bool:
        """Tell whether a type meets a pattern; the answer is kept, there are few types."""
        known = self._types.get(event_type)
        if known is None:
            known = matches(self._patterns, event_type)
            if len(self._types) < _MOST_TYPES:
                self._types[event_type] = known
        return known
