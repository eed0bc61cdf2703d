"""The lanes in memory: a transport for one process, without Redis.

Owns lanes and the places of groups as plain values of one event loop. It promises what the seam promises and keeps
nothing: when the process ends the lanes are gone, and the relay of the next one fills them from the record, from what
every subscription has acknowledged on. A lane holds a bounded number of entries; what is above it waits on record until
the subscribers have come further. Never share one between event loops.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import islice

from headrace.streams.transport import FULL, WAIT_SECONDS, WRONG_TYPE, Batch, Entry, GroupLostError, GroupTakenError

CAPACITY = 10_000
"""Entries that a lane holds at most."""


class _Lane:
    """Entries that follow `base`; a lane that is none stands for something foreign."""

    __slots__ = ("base", "is_lane", "payloads")

    def __init__(self, base: int, *, is_lane: bool = True) -> None:
        self.base = base
        self.payloads: deque[bytes] = deque()
        self.is_lane = is_lane

    @property
    def end(self) -> int:
        return self.base + len(self.payloads)

    def after(self, position: int, count: int) -> list[Entry]:
        """Return what follows a position; what was trimmed is passed over."""
        first = max(position, self.base)
        found = islice(self.payloads, first - self.base, first - self.base + count)
        return [Entry(number, payload) for number, payload in enumerate(found, first + 1)]


class InProcessTransport:
    """Lanes and groups of this process (see `transport.Transport`)."""

    def __init__(self, *, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.lanes: dict[int, _Lane] = {}
        self.given: dict[tuple[str, int], int] = {}
        """The last position of each lane that a subscription was given."""
        self._changed = asyncio.Event()

    def writer(self) -> InProcessWriter:
        """Return the relay's side."""
        return InProcessWriter(self)

    @asynccontextmanager
    async def group(self, subscription: str, reader: str) -> AsyncIterator[InProcessGroup]:
        """Open the side of a subscription; readers need no names here."""
        del reader
        yield InProcessGroup(self, subscription)

    def lose(self, lane: int, *, foreign: bool = False) -> None:
        """Forget a lane and its groups, as a restart does; a foreign one stands in its place."""
        del self.lanes[lane]
        if foreign:
            self.lanes[lane] = _Lane(0, is_lane=False)
        self.lose_groups(lane)

    def lose_groups(self, lane: int) -> None:
        """Forget the places of all subscriptions on a lane."""
        self.given = {key: position for key, position in self.given.items() if key[1] != lane}
        self.tell()

    def tell(self) -> None:
        """Wake everybody who reads."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def change(self) -> None:
        """Wait until something is appended or lost."""
        await self._changed.wait()


class InProcessWriter:
    """The relay's side (see `transport.LaneWriter`)."""

    def __init__(self, transport: InProcessTransport) -> None:
        self._transport = transport

    async def append(self, batches: Sequence[Batch]) -> dict[int, int]:
        """Append each batch where it belongs, and return where each lane ends now."""
        ends = {batch.lane: self._append(batch) for batch in batches}
        self._transport.tell()
        return ends

    async def rebase(self, lane: int, position: int) -> None:
        """Make the lane one that is empty and ends at `position`; one that was never used keeps its groups."""
        found = self._transport.lanes.get(lane)
        if found is not None and not (found.is_lane and found.end == 0):
            self._transport.lose_groups(lane)
        self._transport.lanes[lane] = _Lane(position)

    async def trim(self, acknowledged: Mapping[int, int]) -> int:
        """Take away what lies at or before the position of each lane."""
        removed = 0
        for number, position in acknowledged.items():
            lane = self._transport.lanes.get(number)
            while lane is not None and lane.payloads and lane.base < position:
                lane.payloads.popleft()
                lane.base += 1
                removed += 1
        return removed

    def _append(self, batch: Batch) -> int:
        lane = self._transport.lanes.setdefault(batch.lane, _Lane(0))
        if not lane.is_lane:
            return WRONG_TYPE
        if lane.end == batch.before:
            if len(lane.payloads) + len(batch.payloads) > self._transport.capacity:
                return FULL
            lane.payloads.extend(batch.payloads)
        return lane.end


class InProcessGroup:
    """One reader of a subscription (see `transport.LaneGroup`)."""

    def __init__(self, transport: InProcessTransport, subscription: str) -> None:
        self._transport = transport
        self._subscription = subscription
        self._mine: dict[int, int] = {}
        """The last position of each lane that this reader was given, or rewound to."""

    async def read(
        self, lanes: Sequence[int], *, count: int, wait_seconds: float = WAIT_SECONDS
    ) -> dict[int, list[Entry]]:
        """Wait for entries; return those of each lane that has some.

        Raises:
            GroupLostError: a group or a lane is not as this reader left it.
            GroupTakenError: what was to come was given to somebody else.

        """
        await asyncio.sleep(0)  # who reads on and on lets others work
        try:
            async with asyncio.timeout(wait_seconds):
                while not (read := self._take(lanes, count)):
                    await self._transport.change()
        except TimeoutError:
            self._look(lanes)
            return {}
        return read

    async def rewind(self, lane: int, position: int) -> None:
        """Make the group's next entry on this lane the one after `position`.

        Raises:
            GroupLostError: something foreign stands in the place of the lane; the relay mends it.

        """
        if not self._transport.lanes.setdefault(lane, _Lane(0)).is_lane:
            message = f"something foreign stands in the place of lane {lane}"
            raise GroupLostError(message)
        self._transport.given[self._subscription, lane] = self._mine[lane] = position

    async def acknowledge(self, handled: Mapping[int, Sequence[int]]) -> None:
        """Do nothing: what is handled is on record, and the relay trims by that."""

    def _take(self, lanes: Sequence[int], count: int) -> dict[int, list[Entry]]:
        read: dict[int, list[Entry]] = {}
        for number in lanes:
            lane, key = self._transport.lanes.get(number), (self._subscription, number)
            if lane is None or key not in self._transport.given:
                message = f"{self._subscription} has no place on lane {number}"
                raise GroupLostError(message)
            if entries := lane.after(self._transport.given[key], count):
                read[number] = entries
                self._transport.given[key] = self._mine[number] = entries[-1].position
        return read

    def _look(self, lanes: Sequence[int]) -> None:
        """Find out, when nothing comes, whether somebody else was given what was ours."""
        for number in lanes:
            position = self._transport.given.get((self._subscription, number), 0)
            if position > self._mine.get(number, position):
                message = f"the entries of lane {number} up to {position} were given to somebody else"
                raise GroupTakenError(message)
