"""The jobs of many requests enter the record together: one statement and one commit for all that wait.

Owns the group commit at the door. While one statement is under way, the calls of other requests gather, and go with the
next one; a lone call goes at once. Each caller returns when its own job is committed, so a 2xx still means "on record".
If PostgreSQL is away, every caller of that statement is told so at last after 10 s; where it went away before it had
answered the commit, nobody can know whether the jobs were accepted, and the callers are told that too.
Never put a call with a unique key here: two statements that wait for each other's keys would deadlock.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from headrace.database.away import is_away
from headrace.database.driver import borrowed
from headrace.database.record import Bell, Record
from headrace.errors import UnavailableError
from headrace.jobs.insert import NewJob, Placed, insert_at_once

_STATEMENTS_AT_ONCE: Final = 2
_MOST_JOBS: Final = 200
_PATIENCE_SECONDS: Final = 10.0


class Intake:
    """Takes one job at a time from each of many callers."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._waiting: list[tuple[NewJob, asyncio.Future[Placed]]] = []
        self._wanted = asyncio.Event()

    async def put(self, job: NewJob) -> Placed:
        """Put a job on record; returns when it is committed.

        Raises:
            UnavailableError: PostgreSQL is away; it is not known whether the job was accepted.

        """
        placed: asyncio.Future[Placed] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, placed))
        self._wanted.set()
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                return await placed
        except TimeoutError as error:
            raise _told(error) from error

    async def run(self) -> None:
        """Carry what gathers to the record until cancelled."""
        while True:
            await self._wanted.wait()
            batch, self._waiting = self._waiting[:_MOST_JOBS], self._waiting[_MOST_JOBS:]
            if not self._waiting:
                self._wanted.clear()
            if wanted := [one for one in batch if not one[1].done()]:  # the others have given up waiting
                await self._carry(wanted)

    async def _carry(self, batch: Sequence[tuple[NewJob, asyncio.Future[Placed]]]) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS), borrowed(self._record.engine) as connection:
                placed = await insert_at_once(connection, [job for job, _ in batch])
        except Exception as error:  # noqa: BLE001 - failure table: the record is away, and every caller must hear of it
            await self._failed(batch, error)
            return
        self._record.wakeup.ring(Bell.JOBS)
        for job, future in batch:
            if not future.done():  # its caller may have gone; the job stays
                future.set_result(placed[job.id])

    async def _failed(self, batch: Sequence[tuple[NewJob, asyncio.Future[Placed]]], error: Exception) -> None:
        if len(batch) > 1 and not is_away(error):
            for one in batch:  # one of them is refused, and the others must not suffer for it
                await self._carry([one])
            return
        for _, future in batch:
            if not future.done():
                future.set_exception(_told(error) if is_away(error) else error)


def _told(error: Exception) -> UnavailableError:
    """Return what one caller is told: an exception of its own, because an instance must not be raised in two tasks."""
    told = UnavailableError(
        "PostgreSQL does not answer at present: it is not known whether the job was accepted: repeat it with an "
        "Idempotency-Key"
    )
    told.__cause__ = error
    return told


@asynccontextmanager
async def open_intake(record: Record) -> AsyncIterator[Intake]:
    """Take jobs for as long as the block runs."""
    intake = Intake(record)
    carriers = [asyncio.create_task(intake.run()) for _ in range(_STATEMENTS_AT_ONCE)]
    try:
        yield intake
    finally:
        for carrier in carriers:
            carrier.cancel()
        for carrier in carriers:
            with suppress(asyncio.CancelledError):
                await carrier
