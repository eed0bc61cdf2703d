"""The progress of a worker's runs on its way: to the record twice a second, to whoever watches live.

Owns what was reported and not yet told. However often a task reports, and however many tasks do, it is one statement
every half second and one message to Redis every 50 ms, always with the newest value of each run. The last value
is on record before the run's outcome is. With PostgreSQL away values wait; with Redis away they are not told live.
Never let a task wait, or fail, for its progress.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from redis.asyncio import Redis
from sqlalchemy.exc import SQLAlchemyError

from headrace.database.away import DRIVER_ERRORS
from headrace.database.record import Record
from headrace.jobs.model import Key
from headrace.jobs.progress import progress_channel, progress_json, write_last_progress, write_progress
from headrace.loops import Pace

logger = structlog.get_logger(__name__)

RECORD_PACE: Final = Pace(interval_seconds=0.5, last_backoff_seconds=2.0)
LIVE_PACE: Final = Pace(interval_seconds=0.05, last_backoff_seconds=5.0)


class Reports:
    """Takes progress from runs; `record_once` and `publish_once` are repeated at the paces above."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._unrecorded: dict[Key, str] = {}
        self._unpublished: dict[Key, str] = {}
        self._wanted = asyncio.Event()
        self._watched = asyncio.Event()
        self._writing = asyncio.Lock()

    def report(self, key: Key, *, done: float, total: float, note: str) -> None:
        """Take the newest value of a run.

        Raises:
            TypeError: it cannot be written as JSON.

        """
        encoded = progress_json(done, total, note)
        self._unrecorded[key] = self._unpublished[key] = encoded
        self._wanted.set()
        self._watched.set()

    def holds(self, key: Key) -> bool:
        """Tell whether a value of this run is not on record yet."""
        return key in self._unrecorded

    async def finish(self, key: Key) -> None:
        """Put the last value of a run on record, where it is not yet, because the run ends."""
        if key not in self._unrecorded:
            return
        last = self._unrecorded.pop(key)
        try:
            async with self._writing:
                await write_last_progress(self._record, key, last)
        except (SQLAlchemyError, *DRIVER_ERRORS) as error:
            logger.warning("progress_not_recorded", job_id=str(key[0]), error=repr(error))

    async def record_once(self) -> None:
        """Wait until something was reported, then record all of it; what cannot be written now waits for the next."""
        await self._wanted.wait()
        async with self._writing:
            reported = dict(self._unrecorded)
            written = await write_progress(self._record, reported) if reported else ()
            for key in written:
                if self._unrecorded.get(key) == reported[key]:
                    del self._unrecorded[key]
        if not self._unrecorded:
            self._wanted.clear()

    async def publish_once(self, redis: Redis) -> None:
        """Wait until something was reported, then tell the newest of each run to whoever watches it."""
        await self._watched.wait()
        self._watched.clear()
        reported, self._unpublished = self._unpublished, {}
        async with redis.pipeline(transaction=False) as pipeline:
            for (job_id, _), encoded in reported.items():
                pipeline.publish(progress_channel(job_id), encoded)
            await pipeline.execute(raise_on_error=False)
