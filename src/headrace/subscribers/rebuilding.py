"""The task `headrace.rebuild`: a projection's next generation grows beside the present one, and takes its place.

Owns the way there. The shadow is made empty; the projection's own function is given the record from its beginning,
batch by batch, each in the transaction that moves the place, so that death at any moment repeats and loses nothing;
live traffic goes on meanwhile. Close behind the live checkpoints these are locked, the rest is applied, and the tables
change places in the same transaction. Where the present tables have changed meanwhile (a migration), it starts over.
An older run, which wakes up late, is refused by the fence. A cancelled rebuild leaves nothing. Never write to the
present generation before the switch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import structlog
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from headrace.database.away import DRIVER_ERRORS
from headrace.database.driver import borrowed
from headrace.errors import ConflictError, FencedError, UnavailableError
from headrace.events.lane import Stretch
from headrace.jobs.retry import PermanentError, Retry
from headrace.subscribers.contract import Subscription
from headrace.subscribers.failures import QUEUE
from headrace.subscribers.growth import LATE, Applied, Growth
from headrace.subscribers.metre import Metre
from headrace.subscribers.rebuild import REBUILD, require_own_tables
from headrace.subscribers.replay import ATTEMPTS, LOSSES
from headrace.subscribers.replay_place import take_place
from headrace.subscribers.shadow_definition import tables_named
from headrace.tasks.contract import Task
from headrace.tasks.policy import Policy
from headrace.tasks.run import Run
from headrace.transaction import Transaction, transaction

logger = structlog.get_logger(__name__)

CLOSE: Final = 1000
"""Positions behind the live checkpoints at which the switch is tried; more, each time that live traffic was as fast."""

MOST: Final = 64 * CLOSE
"""Positions that the switch applies at most: the projection stands still meanwhile."""

_PATIENCE: Final = "SET LOCAL lock_timeout = '1s'"
_PAUSE_SECONDS: Final = 0.5
_TRIES: Final = 60
_BUSY: Final = frozenset({"55P03", "40P01"})
"""lock_not_available, deadlock_detected: readers of the tables come first."""

_LOCK: Final = "SELECT lane FROM checkpoints WHERE subscription = $1 ORDER BY lane FOR UPDATE"
_SWITCHED: Final = """
    WITH mine AS (UPDATE replays SET switched_at = now() WHERE job_id = $1 AND fence = $2 RETURNING subscription)
    UPDATE subscriptions AS s SET generation = generation + 1, rebuilt_at = now() FROM mine
    WHERE s.name = mine.subscription RETURNING s.generation
"""
_CANCELLED: Final = "SELECT cancel_requested_at IS NOT NULL FROM jobs WHERE id = $1"

Work = Callable[..., Coroutine[Any, Any, int]]


class Rebuild(Task[..., int]):
    """The task over the subscriptions of the loaded applications."""

    def __init__(self, subscriptions: Mapping[str, Subscription]) -> None:
        """Rebuild these subscriptions."""
        retry = Retry(max_attempts=ATTEMPTS, max_losses=LOSSES)
        super().__init__(REBUILD, _rebuilding(subscriptions), Policy(queue=QUEUE, retry=retry, timeout_seconds=None))


def _rebuilding(subscriptions: Mapping[str, Subscription]) -> Work:
    async def rebuild(run: Run, subscription: str, rate_per_second: float | None = None) -> int:
        """Make the tables of a projection anew; return of how many events."""
        found = subscriptions.get(subscription)
        if found is None:
            message = f"no application of this worker has the subscription {subscription}"
            raise LookupError(message)
        try:
            require_own_tables(found, subscriptions)
            return await Rebuilding(run, found, Metre(rate_per_second)).run()
        except ConflictError as error:
            raise PermanentError(str(error)) from error

    return rebuild


class _ChangedError(Exception):
    """The present tables have changed since the shadow was made, or live traffic has gone far ahead."""


class Rebuilding:
    """One run of a rebuild."""

    def __init__(self, run: Run, subscription: Subscription, metre: Metre) -> None:
        self._run = run
        self._record, self._seats = run.ground.record, run.ground.seats
        self._subscription = subscription
        self._metre = metre
        self._growth: Growth

    async def run(self) -> int:
        """Rebuild, or go on with it; return how many events the new generation is made of."""
        async with borrowed(self._record.engine) as connection:
            place = await take_place(connection, self._run.job_id, self._run.fence)
        self._growth = Growth(self._run, self._subscription, self._metre, place)
        if place.switched_at is None:
            try:
                await self._until_switched()
            except asyncio.CancelledError:
                await self._clear_up()
                raise
        return self._growth.place.done

    async def _until_switched(self) -> None:
        await self._begin()
        for _ in range(_TRIES):
            await self._catch_up()
            try:
                if await self._switch():
                    return
            except _ChangedError:
                await self._begin()
            await asyncio.sleep(_PAUSE_SECONDS)
        message = f"the tables of {self._subscription.name} are always in use: they could not change places"
        raise TimeoutError(message)

    async def _begin(self) -> None:
        try:
            async with self._transaction() as tx:
                await self._growth.begin(tx)
        except asyncpg.InsufficientPrivilegeError as error:
            message = f"the next generation needs a schema of its own: {error}"
            raise PermanentError(message) from error

    async def _catch_up(self) -> None:
        """Apply the record until little is left; where live traffic is as fast, more is left to the switch.

        Raises:
            PermanentError: too much would be.

        """
        close = self._metre.portion(CLOSE)
        behind = await self._look()
        while behind > close:
            for stretch in self._growth.place.next_stretches():
                await self._apply(stretch)
            before, behind = behind, await self._look()
            close = close if behind < before else close * 2
            if close > MOST // 2:
                message = (
                    f"live traffic is as fast as the rebuild, which is {behind} positions behind: ask again with a "
                    "higher rate_per_second or none, or when less is published"
                )
                raise PermanentError(message)

    async def _look(self) -> int:
        async with borrowed(self._record.engine) as connection:
            return await self._growth.extend(connection)

    async def _apply(self, stretch: Stretch) -> None:
        """Apply the next batch of a stretch in a transaction of its own."""
        async with borrowed(self._record.engine) as connection:
            moved, events = await self._growth.read(connection, stretch)
        await self._metre.pass_(len(events))
        async with self._transaction() as tx:
            await self._growth.write(tx, moved, events)
        self._growth.note(moved, events)

    async def _switch(self) -> bool:
        """Put the new generation in place; False where the tables are in use.

        Raises:
            _ChangedError: the present tables are not what the shadow was made after, or too much is left.
            FencedError: a later run is at it.

        """
        try:
            async with self._transaction() as tx:
                written = await self._switch_within(tx)
        except (DBAPIError, asyncpg.PostgresError) as error:
            if getattr(getattr(error, "orig", error), "sqlstate", None) not in _BUSY:
                raise
            logger.info("switch_waits", subscription=self._subscription.name, error=repr(error))
            return False
        for moved, events in written:
            self._growth.note(moved, events)
        logger.info("projection_rebuilt", subscription=self._subscription.name, events=self._growth.place.done)
        return True

    async def _switch_within(self, tx: Transaction) -> list[Applied]:
        """Apply the rest with the live checkpoints held, and let the tables change places; return what was applied."""
        connection, growth = await tx.driver(), self._growth
        await connection.execute(_PATIENCE)
        if not await connection.fetch(_LOCK, self._subscription.name):
            message = f"there is no subscription {self._subscription.name} any more"
            raise PermanentError(message)
        tables = await tables_named(connection, self._subscription.tables)
        if not growth.shadow.is_of(tables) or not await growth.shadow.fits(connection):
            raise _ChangedError
        if await growth.extend(connection) > MOST:
            raise _ChangedError
        written = await growth.write_rest(tx)
        await growth.shadow.switch(connection)
        if await connection.fetchval(_SWITCHED, self._run.job_id, self._run.fence) is None:
            raise FencedError(LATE)
        return written

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Transaction]:
        """Open a transaction, in line with the sessions of this worker's other runs."""
        async with self._seats, transaction(self._record) as tx:
            yield tx

    async def _clear_up(self) -> None:
        """Take the shadow away where somebody cancelled the job; a worker that stops leaves it for the next one."""
        try:
            async with asyncio.timeout(_PAUSE_SECONDS), borrowed(self._record.engine) as connection:
                if await connection.fetchval(_CANCELLED, self._run.job_id):
                    await self._growth.shadow.drop(connection)
        except (TimeoutError, UnavailableError, SQLAlchemyError, *DRIVER_ERRORS) as error:
            logger.info("shadow_left", subscription=self._subscription.name, error=repr(error))  # upkeep finds it
