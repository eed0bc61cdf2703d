"""Recovery: make a stream equal the lane log.

Owns the one answer to whatever happened to a lane's stream: flushed, lost with its disk, replaced by an older copy or
by another kind of key, cut short by a failover, written to by a stranger, or never reached because a relay died between
its two writes. `mend` makes it one that can be gone on with: as it is where it only ends too early, begun anew after
what every subscription has acknowledged where nothing useful is there. `feed` appends what follows, in order, from the
record. Each mend is logged and counted on record. Doing either twice, or from two relays at once, is harmless: every
write is a compare-and-append of what the record says.
"""

from __future__ import annotations

import asyncpg
import structlog

from headrace.database.mends import Mend, note_mend
from headrace.events.lane import events_after
from headrace.relay.position import acknowledged, heads
from headrace.streams.payload import encode
from headrace.streams.portion import Portion
from headrace.streams.transport import WRONG_TYPE, Batch, LaneWriter

logger = structlog.get_logger(__name__)

_CHUNK = 500


class Recovery:
    """Mends lanes and feeds them from the record."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], writer: LaneWriter) -> None:
        self._connection = connection
        self._writer = writer
        self._portion = Portion(_CHUNK)

    async def mend(self, lane: int, found: int) -> int | None:
        """Make the lane's stream, which was found to end at `found`, one that can be fed; return where it ends.

        None says that the belt has no room even for an empty stream; the next look finds the same fault again.
        """
        head = (await heads(self._connection))[lane]
        end = found
        if found == WRONG_TYPE or found > head or (found == 0 and head > 0):
            end = min((await acknowledged(self._connection))[lane][0], head)
            await self._writer.rebase(lane, end)
            if (await self._writer.append([Batch(lane, end, ())]))[lane] != end:
                return None
        reason = _reason(found, head)
        await note_mend(self._connection, reason, head - end)
        logger.warning("lane_mended", lane=lane, found=found, head=head, reason=reason.value, missing=head - end)
        return end

    async def feed(self, lane: int, end: int, *, most: int) -> tuple[int, int]:
        """Append what follows `end`, at most that many; return where the stream should end then, and where it does."""
        events = await events_after(self._connection, lane, end, limit=min(self._portion.count, most))
        if not events:  # retention has dropped it all: nobody can be given it any more
            head = (await heads(self._connection))[lane]
            await self._writer.rebase(lane, head)
            return head, head
        first = events[0][0]
        if first != end + 1:  # retention has dropped what came before
            await self._writer.rebase(lane, first - 1)
        batch = Batch(lane, before=first - 1, payloads=[encode(event) for _, event in events])
        reached = (await self._writer.append([batch]))[lane]
        self._portion.moved(len(events), sum(map(len, batch.payloads)))
        return batch.last, reached


def _reason(found: int, head: int) -> Mend:
    if found == WRONG_TYPE:
        return Mend.WRONG_TYPE
    if found == 0:
        return Mend.STREAM_MISSING
    return Mend.STREAM_BEHIND if found < head else Mend.STREAM_AHEAD
