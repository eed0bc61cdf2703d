"""Settling: what was handled is noted in the inbox, acknowledged, and counts for the checkpoint, many at a time.

Owns the order of these three. The inbox comes first, for the whole of what has gathered, in one statement; then one
acknowledgement per lane, in one round trip; the checkpoints follow within a fifth of a second. Death between two of
them makes events come again, and the inbox says that they are handled. With the record away everything waits here; with
Redis away the acknowledgement is left out, because the checkpoint says the same. Never acknowledge what the record does
not know.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from headrace.database.driver import borrowed
from headrace.events.model import RecordedEvent
from headrace.loops import Pace, Stop, repeat
from headrace.streams.connection import AWAY
from headrace.streams.transport import LaneGroup
from headrace.subscribers.batch import batch_of
from headrace.subscribers.checkpoints import Move, advance
from headrace.subscribers.held_keys import no_longer_waiting
from headrace.subscribers.inbox import enter
from headrace.subscribers.keys import Key
from headrace.subscribers.lane import Lane
from headrace.telemetry.spans import acknowledge

CHECKPOINT_SECONDS = 0.2
_PACE = Pace(0.0, first_backoff_seconds=0.05, last_backoff_seconds=1.0)


class Settled(msgspec.Struct, frozen=True):
    """One position that needs nothing more than to be settled."""

    lane: Lane
    position: int
    event: RecordedEvent | None = None
    """What was handled; None where there was nothing to do."""
    enter: bool = False
    """Whether the inbox is still to be told."""
    key: Key | None = None
    """The key of an event that waited on record: its position was settled when it was put there."""


class Settler:
    """Settles for one subscription, over all of its lanes."""

    def __init__(
        self, engine: AsyncEngine, lanes: LaneGroup, subscription: str, *, on_room: Callable[[], None]
    ) -> None:
        """Call `on_room` after each settling: there is room for more then."""
        self.on_key_free: Callable[[Key], None] = lambda _key: None
        """Called when the last event that was taken from the record of a held key is settled."""
        self._engine = engine
        self._lanes = lanes
        self._subscription = subscription
        self._on_room = on_room
        self._waiting: list[Settled] = []
        self._wanted = asyncio.Event()
        self._moved: set[Lane] = set()
        self._checkpoint_at = 0.0

    def add(self, settled: Settled) -> None:
        """Settle this soon."""
        self._waiting.append(settled)
        self._wanted.set()

    async def run(self) -> None:
        """Settle until cancelled."""
        await repeat("settle", self._settle_as_it_comes, _PACE, Stop())

    async def run_once(self) -> None:
        """Settle all that has gathered, and move the checkpoints if it is time."""
        gathered = [settled for settled in self._waiting if not settled.lane.lost]
        waited = [settled for settled in self._waiting if settled.key is not None]
        taken = len(self._waiting)
        if gathered:
            await self._enter(gathered)
            await self._forget(gathered)
            await self._acknowledge([settled for settled in gathered if settled.key is None])
        del self._waiting[:taken]
        self._count([settled for settled in gathered if settled.key is None])
        self._return(waited)
        if self._moved and time.monotonic() >= self._checkpoint_at:
            await self._move_checkpoints()

    async def _settle_as_it_comes(self) -> None:
        while True:
            if not self._waiting:
                await self._wait()
            self._wanted.clear()
            await self.run_once()

    async def _wait(self) -> None:
        """Wait for something to settle; no longer than until the checkpoints are due, where some have moved."""
        timeout = max(self._checkpoint_at - time.monotonic(), 0.0) if self._moved else None
        try:
            async with asyncio.timeout(timeout):
                await self._wanted.wait()
        except TimeoutError:
            return

    async def _enter(self, gathered: Collection[Settled]) -> None:
        events = [settled.event.id for settled in gathered if settled.event is not None and settled.enter]
        if events:
            async with borrowed(self._engine) as connection:
                await enter(connection, self._subscription, events)

    async def _forget(self, gathered: Collection[Settled]) -> None:
        """Take events off the record of those that wait; the inbox has them by now, or a job."""
        events = [settled.event.id for settled in gathered if settled.event is not None and settled.key is not None]
        if events:
            async with borrowed(self._engine) as connection:
                await no_longer_waiting(connection, self._subscription, events)

    async def _acknowledge(self, gathered: Collection[Settled]) -> None:
        if not gathered:
            return
        handled: dict[int, list[int]] = {}
        for settled in gathered:
            handled.setdefault(settled.lane.number, []).append(settled.position)
        events = [settled.event for settled in gathered if settled.event is not None]
        with acknowledge(batch_of(events, self._subscription)):
            try:
                await self._lanes.acknowledge(handled)
            except AWAY:
                return  # failure table: Redis is away; the checkpoint says the same, and the next owner rewinds to it

    def _count(self, gathered: Collection[Settled]) -> None:
        by_lane: dict[Lane, list[int]] = {}
        for settled in gathered:
            by_lane.setdefault(settled.lane, []).append(settled.position)
        for lane, positions in by_lane.items():
            lane.progress.done(positions)
            if lane.progress.position > lane.saved:
                if not self._moved:
                    self._checkpoint_at = time.monotonic() + CHECKPOINT_SECONDS
                self._moved.add(lane)
        if by_lane:
            self._on_room()

    def _return(self, waited: Collection[Settled]) -> None:
        """Count down what was taken from the record."""
        for settled in waited:
            settled.lane.in_hand -= 1
            if settled.key is not None:
                settled.key.in_hand -= 1
                if not settled.key.in_hand:
                    self.on_key_free(settled.key)

    async def _move_checkpoints(self) -> None:
        moves = {lane: Move(lane.number, lane.progress.position, lane.fence) for lane in self._moved if not lane.lost}
        if moves:
            async with borrowed(self._engine) as connection:
                await advance(connection, self._subscription, list(moves.values()))
        for lane, move in moves.items():
            lane.saved = move.position
        self._moved = set()
        self._on_room()
