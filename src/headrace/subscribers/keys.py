"""Keys in the hands of one subscription of this process: what waits for each, and which one is next.

Owns the queues of events by key and the order in which workers are given keys. A key is with one worker at a time, so
its events follow one another. It is with none while a job blocks it. Never give a key to a worker that another one has.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from uuid import UUID

import msgspec

from headrace.events.model import RecordedEvent
from headrace.subscribers.lane import Lane


class Work(msgspec.Struct, frozen=True):
    """One event to be handled."""

    lane: Lane
    event: RecordedEvent
    received: str | None = None
    waited: bool = False
    """It waits on record: its position is settled already."""


class Key:
    """A key: its events in memory, in order, and whether the record has others."""

    __slots__ = ("begun", "blocked_by", "in_hand", "lane", "name", "ready", "works")

    def __init__(self, name: str) -> None:
        self.name = name
        self.works: deque[Work] = deque()
        self.ready = False
        """It is in line for a worker."""
        self.begun = False
        """A worker has it: the first of its works is being handled."""
        self.lane: Lane | None = None
        """Its lane, where it is held on record: what comes goes there."""
        self.blocked_by: UUID | None = None
        """The job that its waiting events wait for."""
        self.in_hand = 0
        """How many events that waited on record were taken from there and are not settled."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it is in memory or in work."""
        return not (self.works or self.ready or self.begun or self.in_hand)


class Keys:
    """The keys with something to do."""

    def __init__(self) -> None:
        self._keys: dict[str, Key] = {}
        self._ready: deque[Key] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()

    def __iter__(self) -> Iterator[Key]:
        """Go over all keys as they are now."""
        return iter(list(self._keys.values()))

    def find(self, name: str) -> Key | None:
        """Return a key, None where nothing is known of it."""
        return self._keys.get(name)

    def get(self, name: str) -> Key:
        """Return a key; it is known from now on."""
        key = self._keys.get(name)
        if key is None:
            key = self._keys[name] = Key(name)
        return key

    def queue(self, work: Work) -> None:
        """Add an event to its key."""
        key = self.get(work.event.key)
        key.works.append(work)
        self.offer(key)

    def offer(self, key: Key) -> None:
        """Bring a key to a worker, unless one has it or its job blocks it."""
        if key.ready or key.begun or key.blocked_by is not None:
            return
        key.ready = True
        self._ready.append(key)
        while self._idle:
            idle = self._idle.popleft()
            if not idle.done():  # else its worker was cancelled
                idle.set_result(None)
                return

    async def take(self) -> Key:
        """Wait for a key that nobody has, and take it."""
        while not self._ready:
            awakened = asyncio.get_running_loop().create_future()
            self._idle.append(awakened)
            await awakened
        key = self._ready.popleft()
        key.ready, key.begun = False, True
        return key

    def put_by(self, key: Key) -> None:
        """Give a key back; it is forgotten where nothing holds it."""
        key.begun = False
        if key.works:
            self.offer(key)
        elif key.lane is None and not key.in_hand:
            self.forget(key)

    def forget(self, key: Key) -> None:
        """Know nothing of a key any more; what comes for it begins anew, beside what a worker may still have of it."""
        if self._keys.get(key.name) is key:
            del self._keys[key.name]
