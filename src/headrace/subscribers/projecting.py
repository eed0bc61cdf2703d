"""The projection's way: a lane's events in their order, batch by batch, exactly once.

Owns one worker per lane. A batch is applied in a transaction that first moves the checkpoint, by comparing it with
where this worker believes it to be: if somebody else has moved it, nothing is applied, and the lane is prepared anew
from the record. A batch that fails is rolled back and tried again, with growing pauses, until it succeeds; the
checkpoint's row says since when and why. Other lanes go on meanwhile. Acknowledging comes last and only tidies up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice

import structlog
from sqlalchemy.exc import SQLAlchemyError

from headrace.database.away import DRIVER_ERRORS
from headrace.database.driver import borrowed
from headrace.database.record import Record
from headrace.errors import FencedError, UnavailableError
from headrace.loops import Pace, Stop
from headrace.streams.connection import AWAY
from headrace.streams.transport import Entry, LaneGroup
from headrace.subscribers.batch import Item, batch_of, events_in
from headrace.subscribers.checkpoints import mark_failing, move_within
from headrace.subscribers.contract import Subscription
from headrace.subscribers.lane import Lane
from headrace.subscribers.listening import wanted_by
from headrace.telemetry.spans import process_batch, receive
from headrace.transaction import transaction

logger = structlog.get_logger(__name__)

BATCH = 500
ROOM = 1000
"""How many entries of a lane may wait in memory."""

_PACE = Pace(0.0, first_backoff_seconds=0.1, last_backoff_seconds=5.0)


class Projecting:
    """Applies the entries of one projection."""

    def __init__(
        self, subscription: Subscription, record: Record, *, lanes: LaneGroup, on_room: Callable[[], None]
    ) -> None:
        """Call `on_room` when a lane has room for more."""
        self._subscription = subscription
        self._wanted = wanted_by(subscription)
        self._record = record
        self._lanes = lanes
        self._on_room = on_room
        self._queues: dict[Lane, deque[Item]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._forever = asyncio.Event()

    async def begin(self, lane: Lane) -> None:
        """Nothing is to be got ready: the checkpoint says everything."""

    def has_room(self, lane: Lane) -> bool:
        """Tell whether the lane has fewer entries waiting than it may."""
        return len(self._queues.get(lane, ())) < ROOM

    async def offer(self, lane: Lane, entries: Sequence[Entry], *, since_ns: int) -> None:
        """Queue the entries of a lane for its worker."""
        items = await events_in(self._record, lane.number, entries, self._wanted)
        if not items:
            return
        if events := [event for _, event in items if event is not None]:
            receive(batch_of(events, self._subscription.name, lane.number), since_ns=since_ns)
        lane.progress.take(items[-1][0])
        if lane in self._queues:
            self._queues[lane].extend(items)
        elif self._group is not None:
            self._queues[lane] = deque(items)
            self._group.create_task(self._work(lane))

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            await self._forever.wait()

    async def _work(self, lane: Lane) -> None:
        """Empty the queue of a lane."""
        queue = self._queues[lane]
        failures = 0
        while queue and not lane.lost and lane.prepared:
            batch = list(islice(queue, BATCH))
            try:
                await self.apply(lane, batch)
            except FencedError:
                lane.prepared = False  # begin anew at what the record says
            except (Exception, SystemExit, BaseExceptionGroup) as error:  # noqa: BLE001 - failure table: it waits, visibly
                failures += 1
                await self._wait(lane, error, failures)
                if lane.draining:  # its next owner tries again: giving a lane back must not wait for a mend
                    lane.progress.take(lane.progress.position)
                    break
                continue
            else:
                for _ in batch:
                    queue.popleft()
            failures = 0
            self._on_room()
        del self._queues[lane]
        self._on_room()

    async def apply(self, lane: Lane, batch: Sequence[Item]) -> None:
        """Apply one batch and move the checkpoint over it.

        Raises:
            FencedError: the checkpoint is not where it was left: nothing was applied.

        """
        await apply_batch(self._record, self._subscription, lane.number, expected=lane.saved, batch=batch)
        lane.progress.done(position for position, _ in batch)
        lane.saved = batch[-1][0]
        with suppress(*AWAY):  # failure table: Redis is away; the checkpoint has moved, that is enough
            await self._lanes.acknowledge({lane.number: [position for position, _ in batch]})

    async def _wait(self, lane: Lane, error: BaseException, failures: int) -> None:
        logger.warning("projection_waits", subscription=self._subscription.name, lane=lane.number, error=repr(error))
        with suppress(UnavailableError, SQLAlchemyError, *DRIVER_ERRORS):
            async with borrowed(self._record.engine) as connection:
                await mark_failing(connection, self._subscription.name, lane.number, error=repr(error))
        await Stop().wait(_PACE.backoff_seconds(failures))


async def apply_batch(
    record: Record, subscription: Subscription, lane: int, *, expected: int, batch: Sequence[Item]
) -> None:
    """Apply one batch in the transaction that moves the checkpoint from `expected` over it.

    Raises:
        FencedError: the checkpoint is not at `expected`: nothing was applied.

    """
    name, last = subscription.name, batch[-1][0]
    events = [event for _, event in batch if event is not None]
    with process_batch(batch_of(events, name, lane)):
        async with transaction(record) as tx:
            if not await move_within(tx, name, lane, expected=expected, position=last):
                message = f"the checkpoint of {name} on lane {lane} is not at {expected}"
                raise FencedError(message)
            if events:
                await subscription.function(tx, events)
