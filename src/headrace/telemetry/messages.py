"""What the spans of the road tell of the messages that pass.

Owns the values that the stations hand to `spans`: a message as it is taken up, a batch that travels together, and what
must be known of an event or a call when it is written. A message belongs to its creator's trace only while it is live.
Never put an event's data or a job's arguments here: they do not belong into a trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol
from uuid import UUID

import msgspec

LIVE_SECONDS: Final = 300.0
"""The age from which on a message no longer belongs to the trace that created it."""


class Fact(Protocol):
    """What a span tells of an event."""

    @property
    def id(self) -> UUID:
        """Its id."""

    @property
    def type(self) -> str:
        """Its type, such as `orders.order.created`."""

    @property
    def source(self) -> str:
        """Who published it."""

    @property
    def subject(self) -> str | None:
        """What it is about."""


class Order(Protocol):
    """What a span tells of a call of a task."""

    @property
    def task(self) -> str:
        """The task's name."""

    @property
    def queue(self) -> str:
        """The queue that it goes to."""


class Message(msgspec.Struct, frozen=True):
    """A message as it is taken up: `created` is the traceparent stored with it; `linked` are others that led here."""

    id: UUID | str
    created: str | None
    age_seconds: float = 0.0
    attempt: int = 1
    replay: bool = False
    linked: tuple[str | None, ...] = ()

    @property
    def is_live(self) -> bool:
        """Whether its processing still belongs to the trace of its creator."""
        return self.attempt == 1 and not self.replay and self.age_seconds <= LIVE_SECONDS


class Batch(msgspec.Struct, frozen=True):
    """Messages that travel together: `created` are the traceparents stored with them."""

    destination: str
    created: Sequence[str | None]
    lane: int | None = None
    group: str | None = None
