"""The queues of jobs in memory: what the dispatcher releases goes to the worker of the same process.

Owns both ends. What lies here is gone with the process; the record says that it is queued, and the next one releases it
again. Never share it between event loops.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from typing import Final

from redis.asyncio import Redis

from headrace.jobs.model import Claim, Key
from headrace.relay.dispatch import Dispatcher
from headrace.tasks.source import Place, Read

_WAIT_SECONDS: Final = 0.5


class InProcessQueues:
    """Released jobs that wait for this process's worker (see `tasks.source.Source`)."""

    def __init__(self) -> None:
        self.more_waits = False
        self._waiting: dict[str, deque[Claim]] = {}
        self._changed = asyncio.Event()

    def put(self, queue: str, jobs: Sequence[Claim]) -> None:
        """Add released jobs to a queue."""
        self._waiting.setdefault(queue, deque()).extend(jobs)
        self._changed.set()

    async def waiting_on(self, queue: str) -> Collection[Key]:
        """Return the jobs of a queue that the worker has not fetched."""
        return {job.key for job in self._waiting.get(queue, ())}

    def clear(self) -> None:
        """Forget everything: the one who released it leads no more."""
        self._waiting.clear()

    async def fetch(self, queues: Sequence[str], count: int) -> list[Read]:
        """Wait half a second for jobs, and share `count` among the queues that have some."""
        if not (read := self._take(queues, count)):
            self._changed.clear()
            try:
                async with asyncio.timeout(_WAIT_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                return []
            read = self._take(queues, count)
        return read

    async def remove(self, places: Sequence[Place]) -> None:
        """Do nothing: what was fetched is gone already."""

    async def aclose(self) -> None:
        """Do nothing: there are no connections."""

    def _take(self, queues: Sequence[str], count: int) -> list[Read]:
        busy = [queue for queue in queues if self._waiting.get(queue)]
        each = max(1, count // max(len(busy), 1))
        read: list[Read] = []
        for queue in busy:
            jobs = self._waiting[queue]
            read += [(queue.encode(), b"", jobs.popleft()) for _ in range(min(each, len(jobs)))]
        self.more_waits = any(self._waiting[queue] for queue in busy)
        return read


class HandingOver(Dispatcher):
    """The dispatcher, which hands over what it releases within the process."""

    def __init__(self, redis: Redis, queues: InProcessQueues) -> None:
        super().__init__(redis)
        self._queues = queues

    async def _put_on_belt(self, queue: str, jobs: Sequence[Claim]) -> None:
        self._queues.put(queue, jobs)
