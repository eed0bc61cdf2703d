"""The run: what a task is given besides its arguments.

Owns the lazily opened session of one attempt. What a task writes through `begin()` commits in one transaction
together with the job's outcome, under the attempt's fence: if another worker has taken the job over meanwhile, that
commit is refused and the effects with it. For effects outside PostgreSQL, `idempotency_key` is the same at every
attempt.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import TypeVar
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.database.away import is_away, reaching
from headrace.database.record import Record
from headrace.errors import UnavailableError
from headrace.jobs.model import Claim
from headrace.jobs.progress import write_progress
from headrace.providers import Providers
from headrace.transaction import Transaction, transaction

T = TypeVar("T")

_PROGRESS_INTERVAL_SECONDS = 0.5


class Run:
    """One attempt of a job, as its task sees it."""

    def __init__(
        self,
        claim: Claim,
        *,
        record: Record,
        providers: Providers,
        stack: AsyncExitStack,
        seats: asyncio.Semaphore,
    ) -> None:
        self._claim = claim
        self._seats = seats
        self._opening = asyncio.Lock()
        self._record = record
        self._providers = providers
        self._stack = stack
        self._progress_at = 0.0
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
                await self._stack.enter_async_context(self._seats)
                try:
                    self.session = await self._stack.enter_async_context(transaction(self._record))
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
                connection = await stack.enter_async_context(self._record.engine.connect())
            yield connection

    def get(self, kind: type[T]) -> T:
        """Return the instance of `kind` that an application provides."""
        return self._providers.get(kind)

    async def progress(self, done: float, total: float, note: str = "") -> None:
        """Put the progress on record, at once visible to others; at most twice a second, and always when done."""
        now = time.monotonic()
        if now - self._progress_at < _PROGRESS_INTERVAL_SECONDS and done < total:
            return
        self._progress_at = now
        await write_progress(self._record, self.job_id, self.fence, msgspec.json.encode([done, total, note]).decode())
