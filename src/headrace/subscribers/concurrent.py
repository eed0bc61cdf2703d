"""The subscriber's way: different keys at the same time, one key in order.

Owns the queues of keys and the workers that empty them. A key with waiting events is worked on by one worker until it
is empty, so its events follow one another whatever lane load there is; a key that is slow holds up nothing but itself.
An event that fails becomes a job before the next one of its key begins. Events of types that are not listened to, and
those handled before, are settled unseen.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import cast
from uuid import UUID

import msgspec
import structlog
from sqlalchemy.exc import SQLAlchemyError

from headrace.database.away import DRIVER_ERRORS, is_record_away
from headrace.database.driver import borrowed
from headrace.database.record import Record
from headrace.errors import UnavailableError
from headrace.events.model import RecordedEvent
from headrace.loops import Pace, Stop
from headrace.streams.transport import Entry
from headrace.subscribers.batch import batch_of, events_in
from headrace.subscribers.contract import Subscription
from headrace.subscribers.deadlines import Worker
from headrace.subscribers.failures import Failure, become_job
from headrace.subscribers.handling import Handled, Handling
from headrace.subscribers.inbox import settled
from headrace.subscribers.lane import Lane
from headrace.subscribers.listening import wanted_by
from headrace.subscribers.settler import Settled, Settler
from headrace.telemetry.spans import receive

logger = structlog.get_logger(__name__)

ROOM = 1000
"""How many events of a lane may be in flight: what waits behind one slow key is bounded by it."""

_UNRECORDED = (UnavailableError, SQLAlchemyError, *DRIVER_ERRORS)
_PACE = Pace(0.0, first_backoff_seconds=0.1, last_backoff_seconds=2.0)


class Work(msgspec.Struct, frozen=True):
    """One event to be handled."""

    lane: Lane
    event: RecordedEvent
    received: str | None = None


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
        self._keys: dict[str, deque[Work]] = {}
        self._ready: deque[str] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()

    def has_room(self, lane: Lane) -> bool:
        """Tell whether the lane has fewer events in flight than it may."""
        return lane.progress.in_flight < ROOM

    async def offer(self, lane: Lane, entries: Sequence[Entry], *, since_ns: int) -> None:
        """Queue the entries by key; those with nothing to do are settled at once."""
        items = await events_in(self._record, lane.number, entries, self._wanted)
        if not items:
            return
        events = [event for _, event in items if event is not None]
        batch = batch_of(events, self._subscription.name, lane.number)
        received = receive(batch, since_ns=since_ns) if events else None
        known = await self._known(lane, events)
        lane.progress.take(items[-1][0])
        for position, event in items:
            if event is None or event.id in known:
                self._settler.add(Settled(lane, position))
            else:
                self._queue(Work(lane, event, received))

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._settler.run())
            group.create_task(self._handling.deadlines.run())
            for _ in range(self._workers):
                group.create_task(self._work())

    async def _known(self, lane: Lane, events: Sequence[RecordedEvent]) -> set[UUID]:
        """Return those events that an earlier owner may have handled, and has."""
        suspects = [event.id for event in events if event.position <= lane.suspect_until]
        if not suspects:
            return set()
        async with borrowed(self._record.engine) as connection:
            return await settled(connection, self._subscription.name, suspects)

    def _queue(self, work: Work) -> None:
        key = work.event.key
        waiting = self._keys.get(key)
        if waiting is not None:
            waiting.append(work)
            return
        self._keys[key] = deque((work,))
        self._ready.append(key)
        if self._idle:
            self._idle.popleft().set_result(None)

    async def _work(self) -> None:
        me = cast("Worker", asyncio.current_task())
        while True:
            while not self._ready:
                awakened = asyncio.get_running_loop().create_future()
                self._idle.append(awakened)
                await awakened
            key = self._ready.popleft()
            waiting = self._keys[key]
            while waiting:
                await self._handle(waiting[0], me)
                waiting.popleft()
            del self._keys[key]

    async def _handle(self, work: Work, me: Worker) -> None:
        """Handle one event until it is handled, or has its job, or the lane is lost."""
        failures = 0
        while not work.lane.lost:
            outcome = await self._handling.attempt(work.event, me, work.received)
            match outcome:
                case Handled.TO_ENTER:
                    self._settle(work, enter=True)
                    return
                case Handled.ENTERED:
                    self._settle(work)
                    return
                case Failure():
                    if await self._give_up(work, outcome):
                        self._settle(work)
                        return
            failures += 1
            await Stop().wait(_PACE.backoff_seconds(failures))

    def _settle(self, work: Work, *, enter: bool = False) -> None:
        self._settler.add(Settled(work.lane, work.event.position, work.event, enter))

    async def _give_up(self, work: Work, failure: Failure) -> bool:
        """Turn a failed delivery into a job; False where the record itself is away: then nothing has failed yet."""
        told = {"subscription": self._subscription.name, "event_id": str(work.event.id)}
        if is_record_away(failure.error):
            logger.warning("delivery_waits", error=repr(failure.error), **told)
            return False
        try:
            await become_job(self._record, self._subscription, work.event, failure)
        except _UNRECORDED as error:
            logger.warning("delivery_waits", error=repr(error), **told)
            return False
        logger.warning("delivery_failed", error=repr(failure.error), **told)
        return True
