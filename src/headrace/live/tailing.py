"""Tailing: a listener from its first frame to its last.

Owns how a listener comes to the present. One that names no marks begins there; one that resumes reads the record until
little is missing, joins the hub, reads the rest up to exactly where it has joined, and goes on with what waits for it.
So it gets every event after its marks once, and each lane in order. While it reads the record it is as slow as it
likes: nothing waits for it; so is a listener for which more has come than waits in its queue, because it goes back to
the record. Whatever happens, the hub is left in the end.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from headrace.live.frames import MISSED, EventFrame, Frame, Mark
from headrace.live.hub import Hub
from headrace.live.index import wants
from headrace.live.listener import Listener
from headrace.live.log import Portion
from headrace.live.marks import Marks

NEAR: Final = 500
"""Positions that may be read while what comes waits in the queue."""

_QUIET_SECONDS: Final = 5.0
"""After so long a listener that reads the record and finds nothing is told where it stands."""


class Tail:
    """A listener's frames; get one from `begin_tail`."""

    __slots__ = ("_hub", "_joined", "_marks", "_sent", "began_at", "listener")

    def __init__(self, hub: Hub, listener: Listener, marks: Marks | None) -> None:
        self.listener = listener
        self._hub = hub
        self._marks = marks
        """How far it has read the record; None where it needs it no more."""
        self._joined = hub.join(listener) if marks is None else None
        self._sent = self.began_at = str(self._joined or marks)
        """The marks after which its first event comes."""

    async def next(self) -> Sequence[Frame]:
        """Wait for frames and return some; none where the tail has ended, as `listener.end` says."""
        while self.listener.end is None:
            if self._marks is not None:
                frames = await self._resumed(self._marks)
            else:
                frames = await self.listener.next()
            if frames:
                self._sent = next((one.marks for one in reversed(frames) if one.marks is not None), self._sent)
                return frames
            if self.listener.overflowed:
                self._fall_back()
        return ()

    def _fall_back(self) -> None:
        """Read the record from where the client is: more has come than waits in the queue."""
        self._hub.part(self.listener)
        self._marks, self._joined = Marks.of(self._sent), None

    def leave(self) -> None:
        """End the tail; nothing comes any more."""
        self._hub.leave(self.listener)

    async def _resumed(self, marks: Marks) -> Sequence[Frame]:
        """Return the next frames from the record, none where the listener is at the place at which it has joined."""
        began = time.monotonic()
        while self.listener.end is None:
            if self._joined is None and marks.behind(self._hub.marks) <= NEAR:
                self._joined = self._hub.join(self.listener)
            upto = self._joined or self._hub.marks.copy()
            portion = await self._hub.log.read(marks, upto=upto, patterns=self.listener.interest.patterns)
            if portion is None and self._joined is not None:
                self._marks = self._joined = None
                break
            if portion is None:  # there is nothing to read, however far behind it seems
                self._joined = self._hub.join(self.listener)
            if self.listener.overflowed:
                self._hub.part(self.listener)
                self._joined = None
            if portion is not None and (frames := self._frames(marks, portion)):
                return frames
            if time.monotonic() - began > _QUIET_SECONDS:
                return [Mark(str(marks))]
        return ()

    def _frames(self, marks: Marks, portion: Portion) -> list[Frame]:
        frames: list[Frame] = [MISSED] if portion.missed else []
        for event in portion.events:
            marks.reach(event.lane, event.position)
            if wants(self.listener.interest, self._hub.reading, event):
                frames.append(EventFrame(event, str(marks)))
        for lane, position in portion.marks:
            marks.reach(lane, position)
        return frames


async def begin_tail(hub: Hub, listener: Listener, last_event_id: str | None) -> Tail:
    """Begin a tail after the id of the last event that its listener has seen, or else now; leave it in the end.

    Raises:
        InvalidInputError: the id is malformed, or lies ahead of the log.
        OSError, asyncpg.PostgresError: the record is away.

    """
    marks = None if last_event_id is None else Marks.of(last_event_id)
    try:
        await hub.enter(listener)
        if marks is not None:
            await hub.reach(marks)
        return Tail(hub, listener, marks)
    except BaseException:
        hub.leave(listener)
        raise
