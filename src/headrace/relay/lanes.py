"""Lanes: events leave the outbox, get their positions, and follow them onto the belt.

Owns the leader's work on events. One step has two writes: the positions are committed to the record, then the batch is
appended to each lane's stream. Death between the two leaves a stream that ends before its lane's head; the next append,
the next look (each second, idle too) or the next leader sees that and calls `recovery`, which makes the stream equal
the lane log. So does everything else that may happen to a stream. An event is never twice in a stream and never out of
order. Never append what is not committed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

import asyncpg

from headrace.events.model import RecordedEvent
from headrace.leases import Fence
from headrace.relay.position import BATCH, Placed, heads, place
from headrace.relay.recovery import Recovery
from headrace.streams.payload import encode
from headrace.streams.portion import Portion
from headrace.streams.transport import Batch, LaneWriter
from headrace.telemetry import names, spans
from headrace.telemetry.messages import Batch as Carried

LOOK_SECONDS = 1.0


class Lanes:
    """Moves events from the outbox to the streams, as long as its fence holds."""

    def __init__(
        self, connection: asyncpg.Connection[asyncpg.Record], writer: LaneWriter, fence: Fence, *, batch: int = BATCH
    ) -> None:
        """Use `connection`, which nobody else may use at the same time."""
        self._connection = connection
        self._writer = writer
        self._fence = fence
        self._portion = Portion(batch)
        self._recovery = Recovery(connection, writer)
        self._look_at = 0.0

    async def step(self) -> int:
        """Move one batch, and look after the streams when that is due; return how many events were moved.

        Whatever it raises, the same call may be made again: committed positions that did not reach their stream are
        found by the next look.
        """
        if time.monotonic() >= self._look_at:
            await self.look()
        placed = await place(self._connection, self._fence, limit=self._portion.count)
        if placed:
            self._look_at = 0.0  # until the append is known to have happened
            await self._append(placed)
            self._look_at = time.monotonic() + LOOK_SECONDS
        return sum(map(len, placed.values()))

    async def look(self) -> None:
        """Compare the end of each stream with its lane's head and mend those that differ."""
        expected = await heads(self._connection)
        nothing = [Batch(lane, head, ()) for lane, head in expected.items()]
        await self._mend(expected, await self._writer.append(nothing))
        self._look_at = time.monotonic() + LOOK_SECONDS

    async def _append(self, placed: Placed) -> None:
        batches = [_batch(lane, events) for lane, events in placed.items()]
        with ExitStack() as stack:
            for lane, events in placed.items():
                stack.enter_context(spans.send(_sent(lane, [event for _, event in events if event is not None])))
            ends = await self._writer.append(batches)
        weight = sum(len(payload) for batch in batches for payload in batch.payloads)
        self._portion.moved(sum(len(batch.payloads) for batch in batches), weight)
        await self._mend({batch.lane: batch.last for batch in batches}, ends)

    async def _mend(self, expected: dict[int, int], found: dict[int, int]) -> None:
        for lane, head in expected.items():
            if found[lane] != head:
                await self._recovery.mend(lane, found[lane])


def _batch(lane: int, events: Sequence[tuple[int, RecordedEvent | None]]) -> Batch:
    return Batch(lane, before=events[0][0] - 1, payloads=[encode(event) for _, event in events])


def _sent(lane: int, events: Sequence[RecordedEvent]) -> Carried:
    destination = names.batch_destination({event.type for event in events})
    return Carried(destination, [event.traceparent for event in events], lane=lane)
