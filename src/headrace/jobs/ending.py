"""Many wait for jobs to finish; one looks.

Owns the waiting of requests for a job's end: one query for all who wait, at most every 20 ms, and none while nobody
waits. While PostgreSQL is away the waiting goes on until each caller's own time is up.
Never ask the record once per waiter.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final
from uuid import UUID

from sqlalchemy import text

from headrace.database.record import Record
from headrace.loops import Pace, Stop, repeat

_PACE: Final = Pace(interval_seconds=0.02, last_backoff_seconds=1.0)
_FINISHED = text("""
    SELECT id FROM unnest(CAST(:ids AS uuid[])) AS waited(id)
    WHERE NOT EXISTS (SELECT FROM jobs j WHERE j.id = waited.id
                      AND j.state NOT IN ('succeeded', 'dead', 'cancelled', 'expired'))
""")


class Endings:
    """Tells who waits for a job that it has finished."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._waited: dict[UUID, set[asyncio.Future[None]]] = defaultdict(set)
        self._wanted = asyncio.Event()
        self._released = Stop()

    async def wait(self, job_id: UUID, timeout_seconds: float) -> None:
        """Return when the job is finished or gone, the time is up, or this process ends."""
        if self._released.is_set():
            return
        finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waited[job_id].add(finished)
        self._wanted.set()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    await finished
        finally:
            self._waited[job_id].discard(finished)
            if not self._waited[job_id]:
                del self._waited[job_id]

    def release(self) -> None:
        """Let everybody go: this process ends, and they may ask another one."""
        self._released.set()
        self._tell(list(self._waited))

    async def run_once(self) -> None:
        """Wait until somebody waits, then look once."""
        await self._wanted.wait()
        if not self._waited:
            self._wanted.clear()
            return
        async with self._record.engine.connect() as connection:
            found = (await connection.execute(_FINISHED, {"ids": list(self._waited)})).scalars()
        self._tell(list(found))

    def _tell(self, job_ids: list[UUID]) -> None:
        for job_id in job_ids:
            for finished in self._waited.get(job_id, ()):
                if not finished.done():
                    finished.set_result(None)


@asynccontextmanager
async def open_endings(record: Record) -> AsyncIterator[Endings]:
    """Look for finished jobs for as long as the block runs."""
    endings = Endings(record)
    looking = asyncio.create_task(repeat("endings", endings.run_once, _PACE, Stop()))
    try:
        yield endings
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
