"""Holding: what cannot be handled now waits on record, so that it is in nobody's way.

Owns the way of events from memory to the record and back. A key is held when its job blocks it, or when its events fill
the lane's room for longer than half a second: then they are put on record, the lane moves on over them, and a worker
takes them from there again, in their order, a hundred at a time. What arrives for a held key goes the same way. One
lock makes putting and letting go follow one another, so that nothing is ever put behind a key that was just let go.
Never take an event from the record as long as one before it may still be on the belt.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence

import structlog
from sqlalchemy.exc import SQLAlchemyError

from headrace.database.away import DRIVER_ERRORS
from headrace.database.driver import borrowed
from headrace.database.record import Record
from headrace.errors import FencedError, UnavailableError
from headrace.events.model import RecordedEvent
from headrace.loops import Pace, Stop, repeat
from headrace.subscribers.held_keys import load, next_waiting, no_longer_waiting, opened, park, release
from headrace.subscribers.keys import Key, Keys, Work
from headrace.subscribers.lane import Lane
from headrace.subscribers.settler import Settled, Settler

logger = structlog.get_logger(__name__)

ROOM = 1000
"""How many events of a lane may be in memory."""

REFILL = 100
HOT = 32
"""A key with more events than this goes by way of the record where its lane is full."""

FULL_SECONDS = 0.5
MOST_AHEAD = 10_000
"""Positions that may be done above one that is not, before that one goes by way of the record."""

_TEND_SECONDS = 0.1
_LOOK_SHARE = 20
"""A look at all held keys comes no sooner than after so many times as long as the last one took."""

UNRECORDED = (UnavailableError, FencedError, SQLAlchemyError, *DRIVER_ERRORS)
_PACE = Pace(_TEND_SECONDS, first_backoff_seconds=0.1, last_backoff_seconds=2.0)


class Holding:
    """The held keys of one subscriber, on the lanes that this process has."""

    def __init__(self, subscription: str, record: Record, *, keys: Keys, settler: Settler) -> None:
        self._subscription = subscription
        self._record = record
        self._keys = keys
        self._settler = settler
        settler.on_key_free = keys.offer
        self._lanes: dict[int, Lane] = {}
        self._full_since: dict[Lane, float] = {}
        self._putting = asyncio.Lock()
        self._look_at = 0.0

    async def begin(self, lane: Lane) -> None:
        """Learn which keys of a lane are held."""
        async with borrowed(self._record.engine) as connection:
            held = dict(await load(connection, self._subscription, lane.number))
        self._forget_lost()
        self._lanes[lane.number] = lane
        for name, job_id in held.items():
            key = self._keys.get(name)
            key.lane, key.blocked_by = lane, job_id

    async def run(self) -> None:
        """Look after the held keys until cancelled."""
        await repeat(f"hold {self._subscription}", self.run_once, _PACE, Stop())

    async def run_once(self) -> None:
        """Leave what is to be given back, make room where one key takes it all, and go on with keys that are open."""
        self._forget_lost()
        for lane in list(self._lanes.values()):
            if lane.draining:
                self._leave_unbegun(lane)
            else:
                await self._make_room(lane)
        if time.monotonic() >= self._look_at:
            await self._look()

    async def put(self, lane: Lane, works: Sequence[Work]) -> None:
        """Put events, in their order, behind their keys; those whose key was let go meanwhile go the straight way."""
        async with self._putting:
            waiting = [work for work in works if self._keys.get(work.event.key).lane is not None]
            if waiting and await self._put(lane, [work.event for work in waiting]):
                for work in waiting:
                    self._settler.add(Settled(lane, work.event.position))
        behind = {work.event.position for work in waiting}
        for work in works:
            if work.event.position not in behind:
                self._keys.queue(work)

    async def set_aside(self, key: Key) -> None:
        """Put what is in memory of a key that is blocked by now on record."""
        works = list(key.works)
        key.works.clear()
        for work in works:
            if work.waited:
                self.drop(key, work)
        fresh = [work for work in works if not work.waited and not work.lane.lost]
        if fresh:
            await self.put(fresh[0].lane, fresh)

    async def refill(self, key: Key) -> bool:
        """Take events of a key from the record; False where there is none to take now."""
        lane = key.lane
        if lane is None or lane.lost or lane.draining or key.blocked_by is not None or key.in_hand:
            return False
        try:
            async with borrowed(self._record.engine) as connection:
                taken = (lane.number, lane.offered)
                found = await next_waiting(connection, self._subscription, key.name, taken=taken, limit=REFILL)
                if settled := [one.event_id for one in found if one.event is None]:
                    await no_longer_waiting(connection, self._subscription, settled)
            if not found:
                return await self._release(key, lane)
        except UNRECORDED as error:
            logger.warning("held_key_waits", subscription=self._subscription, error=repr(error))
            return False
        works = [Work(lane, one.event, waited=True) for one in found if one.event is not None]
        key.works.extend(works)
        key.in_hand += len(works)
        lane.in_hand += len(works)
        return True

    def drop(self, key: Key, work: Work) -> None:
        """Leave an event that waits on record to whoever comes next."""
        key.in_hand -= 1
        work.lane.in_hand -= 1

    def leave(self, key: Key, work: Work) -> None:
        """Leave an event of a lane that is given back to its next owner."""
        if work.waited:
            self.drop(key, work)
        else:
            work.lane.left += 1

    async def _put(self, lane: Lane, events: Sequence[RecordedEvent]) -> bool:
        """Put events of a lane on record, however long that takes; False where the lane is lost."""
        failures = 0
        while not lane.lost:
            try:
                async with borrowed(self._record.engine) as connection:
                    await park(connection, self._subscription, lane.fence, events)
            except UNRECORDED as error:
                failures += 1
                logger.warning("events_not_put_aside", subscription=self._subscription, error=repr(error))
                await Stop().wait(_PACE.backoff_seconds(failures))
            else:
                return True
        return False

    async def _release(self, key: Key, lane: Lane) -> bool:
        """Let a key go behind which nothing waits, and return False: there is nothing to take, or not yet."""
        async with self._putting, borrowed(self._record.engine) as connection:
            if await release(connection, self._subscription, key.name, fence=lane.fence):
                key.lane = None
        return False

    async def _make_room(self, lane: Lane) -> None:
        """Put the events of hot keys on record where they fill the lane, and one that the whole lane waits for."""
        crowded: Collection[Key] = ()
        if lane.progress.in_flight < ROOM:
            self._full_since.pop(lane, None)
        elif time.monotonic() - self._full_since.setdefault(lane, time.monotonic()) >= FULL_SECONDS:
            crowded = [key for key in self._keys_on(lane) if len(key.works) > HOT]
        if lane.progress.ahead > MOST_AHEAD:
            first = lane.progress.position + 1
            crowded = [*crowded, *(key for key in self._keys_on(lane) if key.works[0].event.position == first)]
        if crowded:
            await self._overflow(lane, crowded)

    async def _overflow(self, lane: Lane, keys: Collection[Key]) -> None:
        """Put all events of these keys on record, also the one that a worker has: the lane moves on over it."""
        moved: list[Work] = []
        for key in keys:
            works = list(key.works)
            moved += works
            key.works.clear()
            key.lane = lane
            if key.begun:
                key.works.append(Work(lane, works[0].event, works[0].received, waited=True))
                key.in_hand += 1
                lane.in_hand += 1
        logger.info(
            "keys_overflow", subscription=self._subscription, lane=lane.number, keys=len(keys), events=len(moved)
        )
        await self.put(lane, moved)

    def _keys_on(self, lane: Lane) -> list[Key]:
        """Return the keys with events of a lane in memory that go the straight way."""
        return [key for key in self._keys if key.lane is None and key.works and key.works[-1].lane is lane]

    def _leave_unbegun(self, lane: Lane) -> None:
        """Leave everything of a lane that no worker has begun with to its next owner."""
        for key in self._keys:
            begun = [key.works.popleft()] if key.begun and key.works else []
            for work in key.works:
                if work.lane is lane:
                    self.leave(key, work)
            rest = [work for work in key.works if work.lane is not lane]
            key.works.clear()
            key.works.extend([*begun, *rest])

    def _forget_lost(self) -> None:
        """Forget the keys of lanes that somebody else has.

        Also one that a worker has in hand: nothing of it counts any more, however long it goes on, and if the lane
        comes back to this process, its events must not wait for that.
        """
        lost = {lane for lane in self._lanes.values() if lane.lost}
        if not lost:
            return
        self._lanes = {number: lane for number, lane in self._lanes.items() if lane not in lost}
        for lane in lost:
            self._full_since.pop(lane, None)
        for key in self._keys:
            begun_in_vain = key.begun and key.works and key.works[0].lane in lost
            if key.lane in lost:
                key.lane, key.blocked_by = None, None
                self._keys.offer(key)
            if begun_in_vain:
                self._keys.forget(key)

    async def _look(self) -> None:
        """Go on with keys that their job blocks no more, and with those that are open and in nobody's hands."""
        began_at = time.monotonic()
        held = [key for key in self._keys if key.lane is not None]
        if any(key.blocked_by is not None for key in held):
            async with borrowed(self._record.engine) as connection:
                found = await opened(connection, self._subscription, list(self._lanes))
            for name, job_id in found:
                key = self._keys.find(name)
                if key is not None and key.blocked_by == job_id:
                    key.blocked_by = None
        for key in held:
            if key.blocked_by is None and key.is_idle:
                self._keys.offer(key)
        ended_at = time.monotonic()
        self._look_at = ended_at + _LOOK_SHARE * (ended_at - began_at)
