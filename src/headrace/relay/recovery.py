"""Recovery: make a stream equal the lane log.

Owns the one answer to whatever happened to a lane's stream: flushed, lost with its disk, replaced by an older copy or
by another kind of key, cut short by a failover, written to by a stranger, or never reached because a relay died between
its two writes. What is missing is appended from the record, in order, after the end that is really there; where nothing
useful is there, the stream begins anew after what every subscription has acknowledged. Each mend is logged and counted.
Running it twice, or from two relays at once, is harmless: every write is a compare-and-append of what the record says.
"""

from __future__ import annotations

import asyncpg
import structlog

from headrace.events.lane import events_after
from headrace.relay.position import acknowledged, heads
from headrace.streams.payload import encode
from headrace.streams.portion import Portion
from headrace.streams.transport import WRONG_TYPE, Batch, LaneWriter

logger = structlog.get_logger(__name__)

_CHUNK = 500


class Recovery:
    """Mends lanes; `mended` counts how often it had to."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], writer: LaneWriter) -> None:
        self._connection = connection
        self._writer = writer
        self.mended = 0

    async def mend(self, lane: int, found: int) -> None:
        """Bring the lane's stream, which was found to end at `found`, to the lane's head."""
        head = (await heads(self._connection))[lane]
        end = found
        if found == WRONG_TYPE or found > head or (found == 0 and head > 0):
            end = await self._begin_anew(lane, head)
        republished = await self._fill(lane, end)
        self.mended += 1
        logger.warning(
            "lane_mended", lane=lane, found=found, head=head, cause=_cause(found, head), appended=republished
        )

    async def _begin_anew(self, lane: int, head: int) -> int:
        position = min((await acknowledged(self._connection))[lane][0], head)
        await self._writer.rebase(lane, position)
        return position

    async def _fill(self, lane: int, end: int) -> int:
        """Append what follows `end`; return how many events that were."""
        appended = 0
        portion = Portion(_CHUNK)
        while events := await events_after(self._connection, lane, end, limit=portion.count):
            first = events[0][0]
            if first != end + 1:  # retention has dropped what came before: nobody can be given it any more
                await self._writer.rebase(lane, first - 1)
            batch = Batch(lane, before=first - 1, payloads=[encode(event) for _, event in events])
            reached = (await self._writer.append([batch]))[lane]
            if reached != batch.last:  # somebody else writes too: leave it to the next look
                return appended
            appended += len(events)
            portion.moved(len(events), sum(map(len, batch.payloads)))
            end = batch.last
        return appended


def _cause(found: int, head: int) -> str:
    if found == WRONG_TYPE:
        return "another kind of key stood in its place"
    if found == 0:
        return "the stream was missing"
    return "the stream ended too early" if found < head else "the stream went past the record"
