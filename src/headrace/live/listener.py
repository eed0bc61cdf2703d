"""A listener: what it wants, and what it has still to be sent.

Owns its queue, which is bounded in frames and in bytes. When more comes than it holds, what waited is forgotten at once
and the listener goes back to the record, at its own pace: the others, and this process, must not feel it. A client that
takes nothing at all for some seconds is dropped with a reason; it can resume after the last event that it has. Offering
never waits and never fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from headrace.events.filters import Filter
from headrace.events.patterns import checked
from headrace.live.frames import Frame

MOST_FRAMES: Final = 1_000
"""That wait for one listener."""

MOST_BYTES: Final = 4 * 1024 * 1024
"""Of the frames that wait for one listener; one frame may be larger."""


class End(StrEnum):
    """Why a tail ends."""

    SLOW = "slow"
    """Its client took nothing of what was sent."""
    LEFT = "left"
    """The client is gone."""
    STOPPING = "stopping"
    """This process ends; another one may be asked."""
    REVOKED = "revoked"
    """The key that opened it is no longer valid."""


@dataclass(frozen=True, slots=True)
class Interest:
    """Which events a listener wants."""

    patterns: tuple[str, ...] = ("*",)
    subject: str | None = None
    filter: Filter | None = None

    @classmethod
    def of(cls, patterns: Sequence[str], *, subject: str | None = None, filter: Filter | None = None) -> Interest:  # noqa: A002 - the API's own word
        """Make it of checked patterns; none means all types.

        Raises:
            InvalidInputError: a pattern is malformed.

        """
        return cls(tuple(sorted({checked(one, field="type") for one in patterns})) or ("*",), subject, filter)


class Listener:
    """One open tail."""

    __slots__ = (
        "_bytes",
        "_pending",
        "_transport",
        "_waiter",
        "beats",
        "end",
        "ended_at",
        "interest",
        "overflowed",
        "owner",
        "writing_since",
    )

    def __init__(
        self,
        interest: Interest,
        *,
        owner: str = "",
        beats: bool = True,
        transport: asyncio.WriteTransport | None = None,
    ) -> None:
        """Want `interest`; `owner` names the key that opened it, `beats` says whether it is sent keep-alives."""
        self.interest = interest
        self.owner = owner
        self.beats = beats
        self.end: End | None = None
        self.ended_at = 0.0
        """When the end came, by the monotonic clock."""
        self.overflowed = False
        """Whether more came than waits here: nothing more does, until the listener has read the record."""
        self.writing_since: float | None = None
        """Since when frames are being written, by the monotonic clock; None while none are."""
        self._transport = transport
        self._pending: list[Frame] = []
        self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None

    def offer(self, frame: Frame) -> None:
        """Let a frame wait for this listener."""
        if self.end is not None or self.overflowed:
            return
        self._pending.append(frame)
        self._bytes += frame.size
        if len(self._pending) > MOST_FRAMES or self._bytes > MOST_BYTES:
            self.overflowed = True
            self._pending, self._bytes = [], 0
        self._wake()

    def close(self, end: End) -> None:
        """End the tail and forget what waits for it; the first reason stays."""
        if self.end is None:
            self.end, self.ended_at = end, time.monotonic()
            self._pending, self._bytes = [], 0
            self._wake()

    def cut(self) -> None:
        """Cut the connection off, with what its client has not read."""
        if self._transport is not None:
            self._transport.abort()

    async def next(self) -> Sequence[Frame]:
        """Wait for frames and return all that wait; none where the tail has ended or more came than waits here."""
        while not self._pending and self.end is None and not self.overflowed:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        pending, self._pending, self._bytes = self._pending, [], 0
        return pending

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
