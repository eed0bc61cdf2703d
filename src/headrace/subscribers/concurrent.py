"""The subscriber's way: different keys at the same time, one key in order.

Owns the workers that empty the queues of keys. A key is with one worker until it is empty, so its events follow one
another whatever lane load there is; a key that is slow holds up nothing but itself, because what it has too much of
waits on record. An event that fails becomes a job before the next one of its key begins; where order is kept, the key
is held until that job lets go. Events of types that are not listened to, and those handled before, are settled unseen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast
from uuid import UUID

import structlog

from headrace.database.away import is_record_away
from headrace.database.driver import borrowed
from headrace.database.record import Record
from headrace.events.model import RecordedEvent
from headrace.loops import Pace, Stop
from headrace.streams.transport import Entry
from headrace.subscribers.batch import batch_of, events_in
from headrace.subscribers.checkpoints import reach
from headrace.subscribers.contract import Subscription
from headrace.subscribers.deadlines import Worker
from headrace.subscribers.failures import Failure, become_job, become_job_in_front
from headrace.subscribers.handling import Handled, Handling
from headrace.subscribers.holding import ROOM, UNRECORDED, Holding
from headrace.subscribers.inbox import settled
from headrace.subscribers.keys import Key, Keys, Work
from headrace.subscribers.lane import Lane
from headrace.subscribers.listening import wanted_by
from headrace.subscribers.settler import Settled, Settler
from headrace.telemetry.spans import receive

logger = structlog.get_logger(__name__)

AHEAD = 10_000
"""How many positions of a lane are taken up after a word to the record that they may be."""

_PACE = Pace(0.0, first_backoff_seconds=0.1, last_backoff_seconds=2.0)


class Concurrent:
    """Handles the entries of one subscriber."""

    def __init__(
        self, subscription: Subscription, record: Record, *, handling: Handling, settler: Settler, workers: int
    ) -> None:
        """Handle at most `workers` events at once."""
        self._subscription = subscription
        self._wanted = wanted_by(subscription)
        self._record = record
        self._handling = handling
        self._settler = settler
        self._workers = workers
        self._keys = Keys()
        self._holding = Holding(subscription.name, record, keys=self._keys, settler=settler)

    async def begin(self, lane: Lane) -> None:
        """Learn which keys of the lane are held."""
        await self._holding.begin(lane)

    def has_room(self, lane: Lane) -> bool:
        """Tell whether the lane has fewer events in flight than it may."""
        return lane.progress.in_flight < ROOM

    async def offer(self, lane: Lane, entries: Sequence[Entry], *, since_ns: int) -> None:
        """Queue the entries by key; those with nothing to do are settled at once."""
        items = await events_in(self._record, lane.number, entries, self._wanted)
        if not items or not await self._reach(lane, items[-1][0]):
            return
        events = [event for _, event in items if event is not None]
        batch = batch_of(events, self._subscription.name, lane.number)
        received = receive(batch, since_ns=since_ns) if events else None
        known = await self._known(lane, events)
        lane.progress.take(items[-1][0])
        behind: list[Work] = []
        for position, event in items:
            if event is None or event.id in known:
                self._settler.add(Settled(lane, position))
                continue
            work, key = Work(lane, event, received), self._keys.find(event.key)
            if key is None or key.lane is None:
                self._keys.queue(work)
            else:
                behind.append(work)
        if behind:
            await self._holding.put(lane, behind)
        lane.offered = items[-1][0]

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._settler.run())
            group.create_task(self._handling.deadlines.run())
            group.create_task(self._holding.run())
            for _ in range(self._workers):
                group.create_task(self._work())

    async def _reach(self, lane: Lane, position: int) -> bool:
        """Say on record, ahead of time and so seldom, that events may be taken up; False where the lane is another's.

        So the next owner knows which of them to ask the inbox for, and asks for none of a backlog that nobody has seen.
        """
        if position > lane.reached:
            ahead = position + AHEAD
            async with borrowed(self._record.engine) as connection:
                if not await reach(connection, self._subscription.name, lane.number, ahead, fence=lane.fence):
                    return False
            lane.reached = ahead
        return True

    async def _known(self, lane: Lane, events: Sequence[RecordedEvent]) -> set[UUID]:
        """Return those events that an earlier owner may have handled, and has."""
        suspects = [event.id for event in events if event.position <= lane.suspect_until]
        if not suspects:
            return set()
        async with borrowed(self._record.engine) as connection:
            return await settled(connection, self._subscription.name, suspects)

    async def _work(self) -> None:
        me = cast("Worker", asyncio.current_task())
        while True:
            key = await self._keys.take()
            await self._empty(key, me)
            self._keys.put_by(key)

    async def _empty(self, key: Key, me: Worker) -> None:
        """Handle what waits for a key, in memory and on record, until nothing does or its job blocks it."""
        while True:
            while key.works and key.blocked_by is None:
                await self._handle_first(key, me)
                key.works.popleft()
            if key.blocked_by is not None:
                await self._holding.set_aside(key)
                return
            if key.lane is None or not await self._holding.refill(key):
                return

    async def _handle_first(self, key: Key, me: Worker) -> None:
        work = key.works[0]
        if work.lane.draining:
            self._holding.leave(key, work)
        elif not await self._handle(key, work, me) and key.works[0].waited:
            self._holding.drop(key, key.works[0])

    async def _handle(self, key: Key, work: Work, me: Worker) -> bool:
        """Handle one event until it is handled, or has its job; False where the lane is lost before."""
        failures = 0
        while not work.lane.lost:
            outcome = await self._handling.attempt(work.event, me, work.received)
            match outcome:
                case Handled.TO_ENTER:
                    self._settle(key, enter=True)
                    return True
                case Handled.ENTERED:
                    self._settle(key)
                    return True
                case Failure():
                    if await self._give_up(key, work, outcome):
                        self._settle(key)
                        return True
            failures += 1
            await Stop().wait(_PACE.backoff_seconds(failures))
        return False

    def _settle(self, key: Key, *, enter: bool = False) -> None:
        """Settle the first event of a key; it may have been put on record while it was handled."""
        work = key.works[0]
        waited = key if work.waited else None
        self._settler.add(Settled(work.lane, work.event.position, work.event, enter, waited))

    async def _give_up(self, key: Key, work: Work, failure: Failure) -> bool:
        """Turn a failed delivery into a job; False where the record itself is away: then nothing has failed yet."""
        told = {"subscription": self._subscription.name, "event_id": str(work.event.id)}
        if is_record_away(failure.error):
            logger.warning("delivery_waits", error=repr(failure.error), **told)
            return False
        try:
            await self._become_job(key, work, failure)
        except UNRECORDED as error:
            logger.warning("delivery_waits", error=repr(error), **told)
            return False
        logger.warning("delivery_failed", error=repr(failure.error), **told)
        return True

    async def _become_job(self, key: Key, work: Work, failure: Failure) -> None:
        if not self._subscription.policy.ordered:
            await become_job(self._record, self._subscription, work.event, failure)
            return
        fence = work.lane.fence
        job_id = await become_job_in_front(self._record, self._subscription, work.event, failure, fence=fence)
        key.lane, key.blocked_by = work.lane, job_id
