"""Many watch jobs; one looks.

Owns what is known of the jobs that somebody watches: their state from the record, by one query every 100 ms for all of
them and none while nobody watches; their progress live from Redis, over one connection, while Redis is there. What
changes faster than a watcher reads is passed over: it gets the newest. With Redis away the record's own progress is
told, twice a second; with PostgreSQL away the watching goes on, and says nothing.
Never ask the record once per watcher.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final
from uuid import UUID

import msgspec
from redis.asyncio import Redis
from sqlalchemy import Row, text

from headrace.database.record import Record
from headrace.database.states import FINISHED
from headrace.jobs.progress import job_of_channel, progress_channel
from headrace.jobs.queries import Job, jobs_by_ids
from headrace.loops import Pace, Stop, repeat
from headrace.settings import Settings
from headrace.streams.connection import open_commands

_PACE: Final = Pace(interval_seconds=0.1, last_backoff_seconds=1.0)
_LIVE_PACE: Final = Pace(interval_seconds=0.1, last_backoff_seconds=5.0)
_LISTEN_SECONDS: Final = 0.1
"""How long a look for messages lasts, and so how late a new watcher is heard of."""
_LIVE_SECONDS: Final = 2.0
"""For how long the record's older progress is not told after a live one."""

_LOOK: Final = text("""
    SELECT id, state, attempt, run_at, started_at, progress::text AS progress FROM jobs WHERE id = ANY(:ids)
""")


class Watch:
    """What one watcher has still to be told."""

    def __init__(self, job: Job) -> None:
        self.over = False
        """Whether nothing more will come: the job is finished or gone, or this process ends."""
        self._standing = (job.state, job.attempt, job.run_at, job.started_at)
        self._recorded = bytes(job.progress)
        self._live_at = -_LIVE_SECONDS
        self._news: dict[str, bytes] = {}
        self._changed = asyncio.Event()

    async def news(self, timeout_seconds: float) -> list[tuple[str, bytes]]:
        """Return the newest of each kind, `progress` before `state`, as JSON; nothing where the time is up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._changed.wait()
        self._changed.clear()
        news, self._news = self._news, {}
        return sorted(news.items())

    def end(self) -> None:
        """Say that nothing more will come."""
        self.over = True
        self._changed.set()

    def is_news(self, row: Row[Any]) -> bool:
        """Tell whether the job stands otherwise than was told."""
        return bool((row.state, row.attempt, row.run_at, row.started_at) != self._standing)

    def tell_state(self, job: Job) -> None:
        """Tell how the job stands."""
        self._standing = (job.state, job.attempt, job.run_at, job.started_at)
        self._recorded = bytes(job.progress)
        self._tell("state", msgspec.json.encode(job))
        self.over = self.over or job.state in FINISHED

    def tell_recorded(self, progress: str | None) -> None:
        """Tell the progress on record, unless it was told or a newer one is."""
        recorded = (progress or "null").encode()
        if recorded != self._recorded and time.monotonic() - self._live_at > _LIVE_SECONDS:
            self._recorded = recorded
            self._tell("progress", recorded)

    def tell_live(self, progress: bytes) -> None:
        """Tell a progress that was published."""
        self._live_at = time.monotonic()
        self._tell("progress", progress)

    def _tell(self, kind: str, encoded: bytes) -> None:
        self._news[kind] = encoded
        self._changed.set()


class Watches:
    """The jobs that are watched in this process; `look_once` and `listen_once` are repeated."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._watches: dict[UUID, set[Watch]] = defaultdict(set)
        self._wanted = asyncio.Event()
        self._released = False

    @contextmanager
    def watch(self, job: Job) -> Iterator[Watch]:
        """Watch a job, of which the watcher knows this much, for the block."""
        watch = Watch(job)
        self._watches[job.id].add(watch)
        self._wanted.set()
        if self._released:
            watch.end()
        try:
            yield watch
        finally:
            self._watches[job.id].discard(watch)
            if not self._watches[job.id]:
                del self._watches[job.id]

    def release(self) -> None:
        """Let everybody go: this process ends, and they may ask another one."""
        self._released = True
        for watch in self._all():
            watch.end()

    def __len__(self) -> int:
        """How many watch."""
        return len(self._all())

    async def look_once(self) -> None:
        """Wait until somebody watches, then look once for all."""
        await self._wanted.wait()
        if not self._watches:
            self._wanted.clear()
            return
        watched = list(self._watches)
        async with self._record.engine.connect() as connection:
            rows = {row.id: row for row in await connection.execute(_LOOK, {"ids": watched})}
            changed = [job_id for job_id, row in rows.items() if self._is_news(row)]
            jobs = await jobs_by_ids(connection, changed) if changed else []
        for job_id, row in rows.items():
            for watch in self._watches.get(job_id, ()):
                watch.tell_recorded(row.progress)
        for job in jobs:
            for watch in self._watches.get(job.id, ()):
                watch.tell_state(job)
        for job_id in watched:
            if job_id not in rows:
                for watch in self._watches.get(job_id, ()):
                    watch.end()

    async def listen_once(self, redis: Redis) -> None:
        """Wait until somebody watches, then hear their jobs' progress until nobody does."""
        await self._wanted.wait()
        heard: set[UUID] = set()
        async with redis.pubsub(ignore_subscribe_messages=True) as subscriptions:
            while self._watches:
                watched = set(self._watches)
                if new := watched - heard:
                    await subscriptions.subscribe(*map(progress_channel, new))
                if left := heard - watched:
                    await subscriptions.unsubscribe(*map(progress_channel, left))
                heard = watched
                message = await subscriptions.get_message(timeout=_LISTEN_SECONDS)
                if message is not None:
                    self._tell_live(message)

    def _tell_live(self, message: dict[str, Any]) -> None:
        for watch in self._watches.get(job_of_channel(message["channel"].decode()), ()):
            watch.tell_live(message["data"])

    def _is_news(self, row: Row[Any]) -> bool:
        return any(watch.is_news(row) for watch in self._watches.get(row.id, ()))

    def _all(self) -> list[Watch]:
        return [watch for watches in self._watches.values() for watch in watches]


@asynccontextmanager
async def open_watches(settings: Settings, record: Record) -> AsyncIterator[Watches]:
    """Look and listen for who watches for as long as the block runs."""
    redis = open_commands(settings.redis_url, connections=2)
    watches = Watches(record)
    stop = Stop()
    parts = [
        asyncio.create_task(repeat("job_watch", watches.look_once, _PACE, stop)),
        asyncio.create_task(repeat("job_listen", lambda: watches.listen_once(redis), _LIVE_PACE, stop)),
    ]
    try:
        yield watches
    finally:
        stop.set()  # a store's client that is just connecting can swallow the cancellation
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
        await redis.aclose()
