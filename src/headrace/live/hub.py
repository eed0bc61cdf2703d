"""The hub: one subscription to Redis in each process, for all who listen there.

Owns how far this process has seen the log, and its way forward: announcements while they follow one another, and the
record wherever they do not. So nothing is missed and nothing comes twice, whatever Redis forgets; without Redis the
record is asked ten times a second, with it once. An event is shown to those who want it at the moment the marks pass
it, all of it in one step: whoever joins in between sees all of what follows. While nobody listens nothing is asked
for. Never wait for a listener here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
import structlog
from redis.asyncio import Redis

from headrace.errors import UnavailableError
from headrace.events.model import RecordedEvent
from headrace.events.reading import Reading
from headrace.live.announcing import ASK_SECONDS, Announcement, channel_of, read_announcements
from headrace.live.frames import MISSED, EventFrame, Frame, Mark
from headrace.live.index import Index
from headrace.live.listener import End, Listener
from headrace.live.log import Log
from headrace.live.marks import Marks, refused
from headrace.streams.payload import GONE

logger = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 0.1
_CALM_SECONDS: Final = 1.0
"""How often the record is asked while announcements come."""
_SETTLED_SECONDS: Final = 2 * ASK_SECONDS
"""After so long the relay has heard that we listen."""
_LISTEN_SECONDS: Final = 0.25
LINGER_SECONDS: Final = 5.0
"""For how long the hub goes on when the last listener has left: many come back."""
STUCK_SECONDS: Final = 5.0
"""How long a client may take nothing while something is being written to it."""
CUT_SECONDS: Final = 5.0
"""How long a client has then for the end of its tail."""

TURNS: Final = 15
"""A listener is told where it stands at every so many beats."""

_decode_event = msgspec.msgpack.Decoder(RecordedEvent).decode


class Hub:
    """The live tails of a process; `look_once`, `hear_once` and `beat_once` are repeated."""

    def __init__(self, log: Log, reading: Reading, *, most: int) -> None:
        """Read filters by `reading`, and let `most` listen at once."""
        self._most = most
        self.log = log
        self.reading = reading
        self.index = Index(reading)
        self.marks = Marks()
        """How far this process has seen the log, while it goes on."""
        self.dropped = 0
        """How many listeners were too slow."""
        self._open: set[Listener] = set()
        self._turns: list[dict[Listener, None]] = [{} for _ in range(TURNS)]
        self._turn = 0
        self._released = False
        self._going = asyncio.Event()
        self._moving = asyncio.Lock()
        self._setting_out: asyncio.Task[None] | None = None
        self._subscribed_at: float | None = None
        self._looked_at = 0.0
        self._empty_since = 0.0

    def __len__(self) -> int:
        """How many listen."""
        return len(self._open)

    def __iter__(self) -> Iterator[Listener]:
        """Yield who listens."""
        return iter(list(self._open))

    async def enter(self, listener: Listener) -> None:
        """Go on for as long as this listener has not left; where nobody has listened, from the present.

        Raises:
            UnavailableError: as many listen as may.
            OSError, asyncpg.PostgresError: the record is away.

        """
        if len(self._open) >= self._most:
            message = "this process has as many live tails as it takes"
            raise UnavailableError(message)
        self._open.add(listener)
        if self._released:
            listener.close(End.STOPPING)
        if not self._going.is_set():
            if self._setting_out is None or self._setting_out.done():
                self._setting_out = asyncio.create_task(self._set_out())
                self._setting_out.add_done_callback(lambda one: one.cancelled() or one.exception())  # noted
            await asyncio.shield(self._setting_out)

    async def _set_out(self) -> None:
        """Begin at the present: one attempt, and one failure, for all who come meanwhile."""
        async with self._moving:
            if not self._going.is_set():
                self.marks = await self.log.present()
                self._going.set()

    async def reach(self, marks: Marks) -> None:
        """See the log at least as far as these marks, which another process made.

        Raises:
            InvalidInputError: the log does not go so far.

        """
        if self.marks.behind(marks):
            await self.catch_up()
        if self.marks.behind(marks):
            message = "this lies ahead of the log: it is the id of another deployment, or of one that was set back"
            raise refused(message)

    def join(self, listener: Listener) -> Marks:
        """Show a listener what comes from now on; return where that begins."""
        self.index.add(listener)
        if listener.beats:
            self._turns[len(self._open) % TURNS][listener] = None
        return self.marks.copy()

    def part(self, listener: Listener) -> None:
        """Show a listener nothing until it joins again."""
        self.index.discard(listener)
        for turn in self._turns:
            turn.pop(listener, None)
        listener.overflowed = False

    def leave(self, listener: Listener) -> None:
        """Show it nothing any more; who has left already may leave again."""
        if listener not in self._open:
            return
        self.dropped += listener.end is End.SLOW
        listener.close(End.LEFT)
        self.part(listener)
        self._open.discard(listener)
        self._empty_since = time.monotonic()

    def release(self) -> None:
        """Let everybody go: this process ends, and they may resume at another one."""
        self._released = True
        for listener in self:
            listener.close(End.STOPPING)

    def cut(self, after_seconds: float = CUT_SECONDS) -> None:
        """Cut off who has not taken the end of the tail for so long."""
        bound = time.monotonic() - after_seconds
        for listener in self:
            if listener.end is not None and listener.ended_at <= bound:
                listener.cut()

    async def beat_once(self) -> None:
        """Tell those whose turn it is where they stand, and let go whose client takes nothing.

        So nobody in between takes a connection for dead, and those that are do not stay.
        """
        bound = time.monotonic() - STUCK_SECONDS
        for listener in self:
            if listener.writing_since is not None and listener.writing_since <= bound:
                listener.close(End.SLOW)
        self.cut()
        turn = self._turns[self._turn]
        self._turn = (self._turn + 1) % TURNS
        if turn:
            _offer(list(turn), Mark(str(self.marks)))

    async def look_once(self) -> None:
        """Wait until somebody listens; where it is time, ask the record whether there is more than was heard of."""
        await self._going.wait()
        now = time.monotonic()
        if not self._open and now - self._empty_since > LINGER_SECONDS:
            self._going.clear()
            return
        settled = self._subscribed_at is not None and now - self._subscribed_at > _SETTLED_SECONDS
        if not settled or now - self._looked_at >= _CALM_SECONDS:
            await self.catch_up()
            self._looked_at = now

    async def hear_once(self, redis: Redis) -> None:
        """Wait until somebody listens, then hear announcements until nobody does."""
        await self._going.wait()
        async with redis.pubsub(ignore_subscribe_messages=True) as subscription:
            await subscription.subscribe(channel_of(redis))
            self._subscribed_at = time.monotonic()
            try:
                while self._going.is_set():
                    message = await subscription.get_message(timeout=_LISTEN_SECONDS)
                    if message is not None:
                        await self._hear(message["data"])
            finally:
                self._subscribed_at = None

    async def catch_up(self) -> None:
        """See what is on record after the marks."""
        async with self._moving:
            while (portion := await self.log.read(self.marks)) is not None:
                if portion.missed:
                    _offer(list(self.index), MISSED)
                for event in portion.events:
                    self._pass(event.lane, event.position, event)
                for lane, position in portion.marks:
                    self.marks.reach(lane, position)

    async def _hear(self, message: bytes) -> None:
        try:
            announcements = read_announcements(message)
        except msgspec.MsgspecError as error:
            logger.warning("announcement_unreadable", error=repr(error))
            return
        for one in announcements:
            if one.before > self.marks[one.lane] or (one.last > self.marks[one.lane] and not one.payloads):
                await self.catch_up()
        async with self._moving:
            for one in announcements:
                self._follow(one)

    def _follow(self, announced: Announcement) -> None:
        """Pass what follows the marks of a lane; what was seen already is passed over, what does not follow is left."""
        seen = self.marks[announced.lane]
        if seen < announced.before:
            return
        for position, payload in enumerate(announced.payloads, announced.before + 1):
            if position > seen:
                self._pass(announced.lane, position, _event_of(payload))

    def _pass(self, lane: int, position: int, event: RecordedEvent | None) -> None:
        self.marks.reach(lane, position)
        if event is None:
            return
        if wanting := self.index.wanting(event):
            _offer(wanting, EventFrame(event, str(self.marks)))


def _offer(listeners: Sequence[Listener], frame: Frame) -> None:
    for listener in listeners:
        listener.offer(frame)


def _event_of(payload: bytes) -> RecordedEvent | None:
    return None if payload == GONE else _decode_event(payload)
