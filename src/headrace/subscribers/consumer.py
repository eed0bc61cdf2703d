"""The consumer: one subscription in this process, from reading to handing over.

Owns the lanes that this process holds of the subscription, and the loop that reads them over a connection of its own. A
lane is prepared before it is read: checkpoint from the record, group rewound to it. From then on its positions are
dense, so whatever happens to the stream or the group is noticed at the next entry or, where none comes, by comparing
with the record twice a second: what was given to somebody else, is not there or had no room there is fetched from the
record, what comes twice is passed over. With Redis away the record is read alone, more slowly. Never cancel a read: it
ends by itself within its wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress

import structlog

from headrace.database.driver import borrowed
from headrace.database.mends import Mend, note_mend
from headrace.database.record import Record
from headrace.events.lane import events_after
from headrace.leases import Fence
from headrace.loops import Pace, Stop, repeat
from headrace.streams.connection import AWAY
from headrace.streams.payload import encode
from headrace.streams.portion import Portion
from headrace.streams.transport import Entry, GroupLostError, GroupTakenError, LaneGroup
from headrace.subscribers.checkpoints import heads_of, load
from headrace.subscribers.contract import Subscription
from headrace.subscribers.lane import Lane, Reactor

logger = structlog.get_logger(__name__)

COUNT = 250
"""Entries of a lane that one read brings at most."""

_FILL = 500
_LOOK_SECONDS = 0.5
_REST_SECONDS = 0.5
_MOMENT_SECONDS = 0.001
_PACE = Pace(0.0, first_backoff_seconds=0.05, last_backoff_seconds=0.5)
_UNABLE = (*AWAY, GroupLostError)
"""What rewinding a group raises where Redis is away, or takes no writes."""


class Consumer:
    """Reads the lanes it owns and offers their entries to the reactor."""

    def __init__(self, subscription: Subscription, record: Record, *, group: LaneGroup) -> None:
        self.subscription = subscription
        self.lanes: dict[int, Lane] = {}
        """The lanes that this process holds."""
        self._record = record
        self._group = group
        self._changed = asyncio.Event()
        self._portion = Portion(COUNT)
        self._look_at = 0.0
        self._lost = False

    def own(self, number: int, fence: Fence) -> None:
        """Begin with a lane whose lease was taken."""
        self.lanes[number] = Lane(number, fence)
        self.wake()

    def lose(self, number: int) -> None:
        """Stop with a lane at once: somebody else has it."""
        self.lanes.pop(number).lost = True
        logger.warning("lane_lost", subscription=self.subscription.name, lane=number)

    def give_back(self, number: int) -> None:
        """Let go of a lane that is finished."""
        self.lanes.pop(number).lost = True

    def wake(self) -> None:
        """Say that there may be more to read: a lane came, or has room again."""
        self._changed.set()

    async def run(self, reactor: Reactor, stop: Stop) -> None:
        """Read until `stop` is set; what was taken up goes on in the reactor."""
        await repeat(f"consume {self.subscription.name}", lambda: self._read_on(reactor, stop), _PACE, stop)

    async def _read_on(self, reactor: Reactor, stop: Stop) -> None:
        while not stop.is_set():
            await self.run_once(reactor)

    async def run_once(self, reactor: Reactor) -> int:
        """Prepare new lanes, read once, offer what came; return how many entries that were."""
        self._changed.clear()
        for lane in [lane for lane in self.lanes.values() if not lane.prepared]:
            await self._prepare(reactor, lane)
        wanted = {number: lane for number, lane in self.lanes.items() if lane.is_read and reactor.has_room(lane)}
        if not wanted:
            await self._rest()
            return 0
        since_ns = time.time_ns()
        try:
            read = await self._group.read(list(wanted), count=self._portion.count, wait_seconds=_wait(wanted.values()))
        except GroupLostError as error:
            await self._mend(reactor, list(wanted.values()), error)
            return 0
        except AWAY:
            await self._look(reactor, list(wanted.values()))
            raise
        self._lost = False
        if read:
            weight = sum(len(entry.payload or b"") for entries in read.values() for entry in entries)
            self._portion.moved(max(map(len, read.values())), weight)
        for number, entries in read.items():
            await self._offer(reactor, wanted[number], entries, since_ns=since_ns)
        if time.monotonic() >= self._look_at:
            await self._look(reactor, list(wanted.values()))
        return sum(map(len, read.values()))

    async def _look(self, reactor: Reactor, lanes: Iterable[Lane]) -> None:
        """Read from the record what a lane waits for in vain."""
        async with borrowed(self._record.engine) as connection:
            heads = await heads_of(connection)
        self._look_at = time.monotonic() + _LOOK_SECONDS
        for lane in lanes:
            taken = lane.progress.taken
            stands = taken == lane.stood_at and taken < lane.awaited
            lane.awaited, lane.stood_at = heads.get(lane.number, 0), taken
            if lane.is_read and taken < lane.awaited and (stands or lane.from_record):
                await self._fill(reactor, lane, upto=lane.awaited)
                self._look_at = 0.0  # there may be more of it

    async def _rest(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_REST_SECONDS):
                await self._changed.wait()

    async def _prepare(self, reactor: Reactor, lane: Lane) -> None:
        """Begin at the checkpoint: what an earlier owner had read and not settled comes again."""
        async with borrowed(self._record.engine) as connection:
            standing = await load(connection, self.subscription.name, lane.number)
        with suppress(*_UNABLE):  # failure table: Redis is away or full; the next read says that the group is lost
            await self._group.rewind(lane.number, standing.position)
        lane.begin(standing.position, suspect_until=min(standing.reached, standing.head))
        await reactor.begin(lane)
        lane.prepared = True

    async def _mend(self, reactor: Reactor, lanes: Collection[Lane], error: GroupLostError) -> None:
        """Make the groups anew; where Redis is not able to, read from the record meanwhile."""
        try:
            await self._rewind(lanes, error)
        except _UNABLE:
            await self._look(reactor, lanes)
            raise

    async def _rewind(self, lanes: Collection[Lane], error: GroupLostError) -> None:
        """Make groups that are gone, or were read by somebody else, go on where this process is on each lane."""
        await self._note(Mend.GROUP_AHEAD if isinstance(error, GroupTakenError) else Mend.GROUP_MISSING, str(error))
        for lane in [lane for lane in lanes if not lane.lost]:
            async with borrowed(self._record.engine) as connection:
                standing = await load(connection, self.subscription.name, lane.number)
            if lane.progress.taken > standing.head:  # the stream held what the record does not: another record's
                lane.begin(standing.position, suspect_until=standing.head)
            await self._group.rewind(lane.number, lane.progress.taken)

    async def _note(self, reason: Mend, said: str) -> None:
        """Count and log that the group is lost, once until it is read again."""
        if self._lost:
            return
        self._lost = True
        logger.warning("group_lost", subscription=self.subscription.name, reason=reason.value, error=said)
        async with borrowed(self._record.engine) as connection:
            await note_mend(connection, reason)

    async def _offer(self, reactor: Reactor, lane: Lane, entries: Sequence[Entry], *, since_ns: int) -> None:
        if lane.lost or not lane.prepared:
            return  # whoever goes on with it begins at the checkpoint
        fresh = [entry for entry in entries if entry.position >= lane.next]
        if len(fresh) < len(entries):
            await self._group.acknowledge({lane.number: [e.position for e in entries if e.position < lane.next]})
        if not fresh:
            return
        if not _is_dense(fresh, lane.next):
            await self._fill(reactor, lane, upto=fresh[-1].position)
            return
        await reactor.offer(lane, fresh, since_ns=since_ns)
        lane.from_record = False
        if lane.progress.taken < fresh[-1].position:  # a stranger wrote there: the relay mends the stream
            await self._rest()
            await self._group.rewind(lane.number, lane.progress.taken)

    async def _fill(self, reactor: Reactor, lane: Lane, *, upto: int) -> None:
        """Take from the record what the stream did not bring; the group goes on after it."""
        name, after = self.subscription.name, lane.progress.taken
        async with borrowed(self._record.engine) as connection:
            head = (await load(connection, name, lane.number)).head
            found = await events_after(connection, lane.number, after, limit=_FILL)
        first = found[0][0] if found else min(upto, head) + 1
        entries = [Entry(position, None) for position in range(lane.next, min(first, lane.next + _FILL))]
        if len(entries) == first - lane.next:
            entries += [Entry(position, encode(event)) for position, event in found]
        if not lane.from_record:
            await self._note_missing(lane, len(entries))
        if entries:
            lane.from_record = True
            lane.suspect_until = max(lane.suspect_until, entries[-1].position)
            await reactor.offer(lane, entries, since_ns=time.time_ns())
        else:
            await self._rest()  # a stranger wrote past the head: the relay mends the stream
        with suppress(*_UNABLE):  # failure table: Redis is away or full; the record is read as long as it is
            await self._group.rewind(lane.number, lane.progress.taken)

    async def _note_missing(self, lane: Lane, entries: int) -> None:
        """Count and log that the stream does not bring what the record has, once until it does."""
        logger.warning(
            "lane_filled",
            subscription=self.subscription.name,
            lane=lane.number,
            after=lane.progress.taken,
            count=entries,
        )
        async with borrowed(self._record.engine) as connection:
            await note_mend(connection, Mend.ENTRIES_MISSING, entries)


def _is_dense(entries: Sequence[Entry], first: int) -> bool:
    """Tell whether entries follow one another from a position on, and all have a body."""
    return (
        entries[0].position == first
        and entries[-1].position - first == len(entries) - 1
        and all(entry.payload for entry in entries)
    )


def _wait(lanes: Iterable[Lane]) -> float:
    """Return how long a read may wait: hardly at all while the record has more for a lane that is read from it."""
    behind = any(lane.from_record and lane.progress.taken < lane.awaited for lane in lanes)
    return _MOMENT_SECONDS if behind else _LOOK_SECONDS
