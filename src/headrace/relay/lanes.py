"""Lanes: events leave the outbox, get their positions, and follow them onto the belt.

Owns the leader's work on events. One step has two writes: the positions are committed to the record, then the batch is
appended to each lane's stream. Death between the two leaves a stream that ends before its lane's head; the next append,
the next look (twice a second, busy or idle) or the next leader sees that, and the stream is fed from the record, in
portions, until it ends where the lane does. So is one that was damaged, and one that had no room. A belt that is away
or refuses stops none of the first writes. An event is never twice in a stream and never out of order. Never append what
is not committed.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack

import asyncpg
import structlog
from redis.exceptions import RedisError

from headrace.events.model import RecordedEvent
from headrace.leases import Fence
from headrace.relay.capacity import FULL_SECONDS, Capacity
from headrace.relay.position import BATCH, Placed, acknowledged, heads, place
from headrace.relay.recovery import Recovery
from headrace.streams.connection import AWAY
from headrace.streams.payload import encode
from headrace.streams.portion import Portion
from headrace.streams.refusals import is_refusal
from headrace.streams.transport import FULL, Batch, LaneWriter
from headrace.telemetry import names, spans
from headrace.telemetry.messages import Batch as Carried

logger = structlog.get_logger(__name__)

LOOK_SECONDS = 0.5


class Lanes:
    """Moves events from the outbox to the streams, as long as its fence holds."""

    def __init__(
        self,
        connection: asyncpg.Connection[asyncpg.Record],
        writer: LaneWriter,
        fence: Fence,
        *,
        capacity: int,
        batch: int = BATCH,
    ) -> None:
        """Use `connection`, which nobody else may use at the same time; let a stream hold `capacity` entries."""
        self._connection = connection
        self._writer = writer
        self._fence = fence
        self._portion = Portion(batch)
        self._recovery = Recovery(connection, writer)
        self._capacity = Capacity(capacity)
        self._heads: dict[int, int] = {}
        self._look_at = 0.0
        self._feed_at: dict[int, float] = {}
        self._blind = False
        self.away = False
        """Whether the belt did not answer at all: whoever asks it something else waits as long in vain."""
        self.placed: Placed = {}
        """What the last step gave positions to."""

    async def step(self, *, placing: bool = True) -> int:
        """Move one batch and look after the streams when that is due; return how many events were moved.

        Where `placing` is false no event gets a position: the number of lanes is about to change.

        Whatever it raises, the same call may be made again: committed positions that did not reach their stream are
        found by the next look.
        """
        if time.monotonic() >= self._look_at:
            await self._on_belt(self.look)
        self.placed = {}
        placed = await place(self._connection, self._fence, limit=self._portion.count) if placing else {}
        self.placed = placed
        moved = sum(map(len, placed.values()))
        if placed:
            self._heads.update({lane: events[-1][0] for lane, events in placed.items()})
            self._portion.moved(moved, _weight(placed))
            await self._on_belt(lambda: self._append(placed))
        return max(moved, await self._on_belt(self._feed))

    async def look(self) -> int:
        """Compare where each stream ends with where it should, and mend those that differ; return how many did."""
        self._look_at = time.monotonic() + LOOK_SECONDS
        self._heads = await heads(self._connection)
        self._capacity.know_floors(await acknowledged(self._connection))
        found = await self._writer.append([Batch(lane, head, ()) for lane, head in self._heads.items()])
        if self._blind:
            self._blind = self.away = False
            logger.info("belt_back")
        differing = [lane for lane, head in self._heads.items() if not self._is_right(lane, found[lane], head)]
        for lane in self._heads.keys() - set(differing):
            self._reached(lane, found[lane])
        for lane in differing:
            await self._mend(lane, found[lane])
        return len(differing)

    def _is_right(self, lane: int, found: int, head: int) -> bool:
        """Tell whether a stream ends at its lane's head, or where it was left to wait for more."""
        known = self._capacity.ends.get(lane)
        return found == head or (known is not None and known <= found <= head)

    async def _on_belt(self, work: Callable[[], Awaitable[int]]) -> int:
        """Do work on the belt; one that is away or refuses is left alone until the next look."""
        if self._blind and work != self.look:
            return 0
        try:
            return await work()
        except (RedisError, OSError) as error:
            if not is_refusal(error):
                raise
            self._look_at = time.monotonic() + LOOK_SECONDS
            self.away = isinstance(error, AWAY)
            if not self._blind:
                self._blind = True
                logger.warning("belt_away", error=repr(error))
            return 0

    async def _append(self, placed: Placed) -> int:
        """Append what follows the ends of the streams and has room; the rest is fed from the record."""
        fitting = {
            lane: events for lane, events in placed.items() if self._capacity.fits(lane, events[0][0], len(events))
        }
        if not fitting:
            return 0
        batches = [_batch(lane, events) for lane, events in fitting.items()]
        with ExitStack() as stack:
            for lane, events in fitting.items():
                stack.enter_context(spans.send(_sent(lane, [event for _, event in events if event is not None])))
            ends = await self._writer.append(batches)
        for batch in batches:
            await self._appended(batch.lane, batch.last, ends[batch.lane])
        return len(batches)

    async def _feed(self) -> int:
        """Give each stream that ends too early a portion from the record; return how many entries that were."""
        fed = 0
        for lane, end in list(self._capacity.ends.items()):
            if end >= self._heads.get(lane, 0) or time.monotonic() < self._feed_at.get(lane, 0.0):
                continue
            if not (room := self._capacity.room(lane)):
                self._capacity.full(lane, "it holds as many entries as it may")
                continue
            last, reached = await self._recovery.feed(lane, end, most=room)
            await self._appended(lane, last, reached)
            fed += last - end
        return fed

    async def _appended(self, lane: int, last: int, reached: int) -> None:
        if reached == last:
            self._reached(lane, last)
        elif reached == FULL:
            self._feed_at[lane] = time.monotonic() + FULL_SECONDS
            self._capacity.full(lane, "the memory of the belt is full")
        else:
            await self._mend(lane, reached)

    async def _mend(self, lane: int, found: int) -> None:
        end = await self._recovery.mend(lane, found)
        if end is None:
            self._capacity.ends.pop(lane, None)
            self._capacity.full(lane, "the memory of the belt is full")
        else:
            self._reached(lane, end)

    def _reached(self, lane: int, end: int) -> None:
        self._capacity.ends[lane] = end
        if end >= self._heads.get(lane, 0):
            self._capacity.caught_up(lane)


def _weight(placed: Placed) -> int:
    return sum(len(event.data) for events in placed.values() for _, event in events if event is not None)


def _batch(lane: int, events: Sequence[tuple[int, RecordedEvent | None]]) -> Batch:
    return Batch(lane, before=events[0][0] - 1, payloads=[encode(event) for _, event in events])


def _sent(lane: int, events: Sequence[RecordedEvent]) -> Carried:
    destination = names.batch_destination({event.type for event in events})
    return Carried(destination, [event.traceparent for event in events], lane=lane)
