"""The run: what a task is given besides its arguments.

Owns the lazily opened session of one attempt. What a task writes through `begin()` commits in one transaction
together with the job's outcome, under the attempt's fence: if another worker has taken the job over meanwhile, that
commit is refused and the effects with it. For effects outside PostgreSQL, `idempotency_key` is the same at every
attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.database.away import is_away, reaching
from headrace.database.record import Record
from headrace.database.states import JobState
from headrace.errors import UnavailableError
from headrace.jobs.parents import result_of_parent, results_of_parents, states_of_parents
from headrace.providers import Providers
from headrace.tasks import idempotency
from headrace.tasks.attempt import Attempt
from headrace.tasks.claims import Claims, Holder
from headrace.tasks.facts import RunFacts
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


class Run(RunFacts):
    """One attempt of a job, as its task sees it."""

    def __init__(self, attempt: Attempt, ground: Ground, stack: AsyncExitStack) -> None:
        super().__init__(attempt.claim)
        self._under_way = attempt
        self._ground = ground
        self._opening = asyncio.Lock()
        self._stack = stack
        self.session: Transaction | None = None
        """The open transaction, where the task has asked for one."""

    @property
    def ground(self) -> Ground:
        """What the runs of this worker share, for tasks of Headrace itself that commit as they go.

        What they commit is not undone where the run ends badly, and their own fence has to guard it.
        """
        return self._ground

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

    def apart(self) -> AbstractAsyncContextManager[Transaction]:
        """Open a transaction apart from the session: what it writes stays, whatever becomes of the attempt.

        For what is true even where the attempt fails: that a call was made, and what was answered.
        """
        return transaction(self._ground.record)

    async def parents(self) -> dict[str, Any]:
        """Return the results of this job's parents, by name, as JSON gives them; without those that did not succeed."""
        async with self.read() as connection:
            return await results_of_parents(connection, self.job_id)

    async def parent(self, name: str, kind: type[T]) -> T:
        """Return the result of one parent, as the type that it has.

        Raises:
            NoResultError: no parent has this name, it has not succeeded, or its result is of another type: a
                `PermanentError`, after which the job is dead.

        """
        async with self.read() as connection:
            return await result_of_parent(connection, self.job_id, name, kind)

    async def parent_states(self) -> dict[str, JobState]:
        """Return how this job's parents ended, by name: in a batch by their place, `0` and so on."""
        async with self.read() as connection:
            return await states_of_parents(connection, self.job_id)

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

    async def check_then_act(
        self, key: str, *, check: Callable[[], Awaitable[T | None]], act: Callable[[], Awaitable[T]]
    ) -> T:
        """Return what `check` finds; where that is None, return what `act` makes.

        For an effect that can be asked for. Runs with the same key come one after the other: the next one checks when
        this run's session has ended.

        Example:
            >>> receipt = await run.check_then_act(f"refund {order_id}", check=find_refund, act=refund)

        """
        return await idempotency.check_then_act(await self.begin(), key, check=check, act=act)

    async def once(self, scope: str, key: str, function: Callable[[], Awaitable[T]], *, returns: Any = Any) -> T:  # noqa: ANN401 - any type that msgspec can read
        """Return the result of a piece of work that is done once for a scope and key, by whichever job.

        The work, its result and this run's outcome commit together, or none of them does. A run that finds the work
        done gets the stored result; one that finds it under way waits for the end of the other's session.

        Args:
            scope: what kind of work, such as `shop.charge`.
            key: which one, such as the order's id.
            function: does the work, on the session of `begin`; what it returns must be JSON, at most 256 KiB.
            returns: the type to read a stored result as; plain JSON values where not given.

        Raises:
            PermanentError: the result cannot be stored.

        Example:
            >>> receipt = await run.once("shop.charge", str(order_id), charge, returns=Receipt)

        """
        place = (scope, key)
        return await idempotency.once(await self.begin(), place, self.job_id, function=function, returns=returns)

    def claim(self, key: str, seconds: float) -> AbstractAsyncContextManager[bool]:
        """Claim an effect in Redis for a time; the block is told whether it is its to make.

        For effects where PostgreSQL is not wanted, and one too many does little harm: Redis may forget. The claim is
        kept for `seconds` after the block and given back where the block raises; a later run of the same job takes it
        over. Make it longer than the effect may take.

        Raises:
            Snooze: another job is at it; the attempt is made again later and not counted.
            UnavailableError: Redis is away; the attempt is made again.

        Example:
            >>> async with run.claim(f"digest {day} {user_id}", seconds=86_400) as mine:
            ...     if mine:
            ...         await send_digest(user_id)

        """
        holder = Holder(self.job_id, self.fence)
        return idempotency.claimed(self.get(Claims).store, key, holder, seconds=seconds)
