"""Frames: what a listener is sent, made once for all who want it and only if somebody does.

Owns the two forms of each: a server-sent event
(https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation) with the marks as its id,
and a WebSocket message with the marks as `last_event_id` beside the CloudEvent. A notice bears no id, so that a
listener that resumes after it resumes after the last event that it was sent.
"""

from __future__ import annotations

from functools import cached_property
from typing import Final, Protocol

import msgspec

from headrace.events.model import RecordedEvent
from headrace.events.showing import shown_on_its_way

RETRY_MILLISECONDS: Final = 1000
"""How long a browser waits before it comes back."""

_OVERHEAD_BYTES: Final = 400


class Frame(Protocol):
    """What a listener may be sent."""

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        ...

    @property
    def marks(self) -> str | None:
        """Where who has it stands; None where that is unchanged."""
        ...

    @property
    def sse(self) -> bytes:
        """It as server-sent event."""
        ...

    @property
    def message(self) -> str | None:
        """It as WebSocket message, None where a WebSocket has no need of it."""
        ...


class EventFrame:
    """An event, and the marks after it."""

    def __init__(self, event: RecordedEvent, marks: str) -> None:
        self._event = event
        self.marks = marks
        self.size = _OVERHEAD_BYTES + len(event.data) + len(event.attributes)

    @cached_property
    def sse(self) -> bytes:
        """An SSE `message`."""
        return b"id: %b\ndata: %b\n\n" % (self.marks.encode(), self._json)

    @cached_property
    def message(self) -> str:
        """The CloudEvent with `last_event_id`."""
        return f'{{"last_event_id":"{self.marks}",{self._json[1:].decode()}'

    @cached_property
    def _json(self) -> bytes:
        return shown_on_its_way(self._event)


class Mark:
    """Where a listener stands although nothing came: it keeps the connection alive, and shortens what it resumes."""

    size = _OVERHEAD_BYTES

    def __init__(self, marks: str, *, first: bool = False) -> None:
        self.marks = marks
        retry = b"retry: %d\n" % RETRY_MILLISECONDS if first else b": keep-alive\n"
        self.sse = retry + b"id: %b\n\n" % marks.encode()
        self.message = None


class Notice:
    """Something about the tail itself: `missed`, or `dropped` at its end."""

    size = _OVERHEAD_BYTES
    marks = None

    def __init__(self, kind: str, reason: str, message: str) -> None:
        told = {"reason": reason, "message": message}
        self.sse = b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode(told))
        self.message = msgspec.json.encode({"notice": kind} | told).decode()


MISSED: Final = Notice("missed", "retention", "events in between are no longer on record")
