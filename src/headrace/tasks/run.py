"""The run: what a task is given besides its arguments.

Owns the lazily opened session of one attempt. What a task writes through `begin()` commits in one transaction
together with the job's outcome, under the attempt's fence: if another worker has taken the job over meanwhile, that
commit is refused and the effects with it. For effects outside PostgreSQL, `idempotency_key` is the same at every
attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.database.away import is_away, reaching
from headrace.database.record import Record
from headrace.errors import UnavailableError
from headrace.providers import Providers
from headrace.tasks.attempt import Attempt
from headrace.tasks.reports import Reports
from headrace.transaction import Transaction, transaction

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ground:
    """What the runs of a worker share."""

    record: Record
    providers: Providers
    seats: asyncio.Semaphore
    """For who wants a session."""
    reports: Reports


class Run:
    """One attempt of a job, as its task sees it."""

    def __init__(self, attempt: Attempt, ground: Ground, stack: AsyncExitStack) -> None:
        self._under_way = attempt
        self._claim = attempt.claim
        self._ground = ground
        self._opening = asyncio.Lock()
        self._stack = stack
        self.session: Transaction | None = None
        """The open transaction, where the task has asked for one."""

    @property
    def job_id(self) -> UUID:
        """The job's id, the same at every attempt."""
        return self._claim.job_id

    @property
    def task(self) -> str:
        """The task's name."""
        return self._claim.task

    @property
    def attempt(self) -> int:
        """1 for the first attempt."""
        return self._claim.attempt

    @property
    def max_attempts(self) -> int:
        """How many attempts the job has in all."""
        return self._claim.max_attempts

    @property
    def fence(self) -> int:
        """Rises with every release of the job: of two runs, the one with the larger fence is the rightful one."""
        return self._claim.fence

    @property
    def idempotency_key(self) -> str:
        """A key for effects outside PostgreSQL, the same at every attempt."""
        return str(self._claim.job_id)

    @property
    def traceparent(self) -> str:
        """The W3C trace context that the job was created in."""
        return self._claim.traceparent

    @property
    def created_at(self) -> datetime:
        """When the job was created."""
        return self._claim.created_at

    async def begin(self) -> Transaction:
        """Return the transaction that commits together with this attempt's outcome; opened at the first call.

        Where more runs want one than the worker has connections, they wait in line, within their own timeout.

        Raises:
            UnavailableError: PostgreSQL is away; the attempt is made again when the task lets this pass.

        """
        async with self._opening:
            if self.session is None:
                await self._stack.enter_async_context(self._ground.seats)
                try:
                    self.session = await self._stack.enter_async_context(transaction(self._ground.record))
                except Exception as error:
                    if not is_away(error):
                        raise
                    message = "PostgreSQL is away"
                    raise UnavailableError(message) from error
        return self.session

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection for reading, apart from the session: a slow call to somebody else must not hold one."""
        async with AsyncExitStack() as stack:
            with reaching():
                connection = await stack.enter_async_context(self._ground.record.engine.connect())
            yield connection

    def get(self, kind: type[T]) -> T:
        """Return the instance of `kind` that an application provides."""
        return self._ground.providers.get(kind)

    async def progress(self, done: float, total: float, note: str = "") -> None:
        """Tell how far this run is; returns at once, however often it is called, and never fails for a store.

        The newest value is on record within half a second, where others see it at once, and the last one in any case;
        who watches the job live gets up to twenty values a second.
        """
        self.report(done, total, note)

    def report(self, done: float, total: float, note: str = "") -> None:
        """Tell how far this run is; for the loop's own thread, as everything here."""
        if self._under_way.lives:
            self._ground.reports.report(self._claim.key, done=done, total=total, note=note)

    def shield(self) -> AbstractAsyncContextManager[None]:
        """Defer what interrupts this run to the end of the block: a cancel, a shutdown, its timeout.

        Keep the block short, and give it an `asyncio.timeout` of its own where it may hang: a worker that stops waits
        for it only as long as for any run.

        Example:
            >>> async with run.shield():
            ...     receipt = await capture_payment(order, key=run.idempotency_key)
            ...     await store(receipt)

        """
        return self._under_way.shield()
