"""The one transaction: domain rows, jobs and events commit together, or none of them does.

Owns the only place that commits. `enqueue` and `publish` write rows on the caller's connection; after the commit the
bell is rung, so that the relay works at once. A rolled-back transaction leaves no job, no event and no domain row.
Never hand a Transaction to another task or keep it after the block.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import ParamSpec
from uuid import UUID

import asyncpg
import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.clock import new_id
from headrace.database.away import reaching
from headrace.database.driver import commit, within
from headrace.database.record import Bell, Record
from headrace.events.log import append_events, new_event
from headrace.events.model import NewEvent
from headrace.jobs.call import Call, Enqueueable
from headrace.jobs.insert import insert_jobs
from headrace.jobs.workflow import Batch, Linked, Workflow, followed_by, insert_linked
from headrace.telemetry.spans import create, enqueue, enqueued

P = ParamSpec("P")


class Transaction:
    """An open transaction. Get one from `transaction`, `run.begin()` or `delivery.begin()`."""

    def __init__(self, connection: AsyncConnection, *, release: str = "") -> None:
        self.connection = connection
        """SQLAlchemy's connection, for the application's own statements."""
        self._driver: asyncpg.Connection[asyncpg.Record] | None = None
        self.bells: set[Bell] = set()
        """What is to be rung after the commit."""
        self.release = release
        """The version of the code that writes, for what failed."""

    async def driver(self) -> asyncpg.Connection[asyncpg.Record]:
        """Return asyncpg's own connection, inside this transaction, for a statement that is executed very often.

        It saves what SQLAlchemy costs, two thirds of a small statement. Its errors are asyncpg's own. Never begin,
        commit or roll back on it.
        """
        if self._driver is None or not self._driver.is_in_transaction():
            self._driver = await within(self.connection)
        return self._driver

    async def enqueue(self, task: Enqueueable[P], *args: P.args, **kwargs: P.kwargs) -> UUID:
        """Enqueue a task with its arguments and return the job's id.

        Raises:
            InvalidInputError: the arguments do not fit the task.

        """
        return (await self.enqueue_calls([task.call(*args, **kwargs)]))[0]

    async def enqueue_calls(self, calls: Sequence[Call], *, ids: Sequence[UUID] | None = None) -> list[UUID]:
        """Enqueue calls that were built before, in one statement; return the jobs' ids in the same order."""
        if not calls:
            return []
        self.bells.add(Bell.JOBS)
        given = ids if ids is not None else [new_id() for _ in calls]
        with enqueue(calls) as scope:
            job_ids = await insert_jobs(self.connection, calls, scope.traceparent, ids=given)
            enqueued(scope, job_ids)
        return job_ids

    async def enqueue_batch(self, calls: Sequence[Call], *, then: Call) -> Batch:
        """Enqueue calls and a job that runs when all of them have finished, whatever their end.

        Raises:
            InvalidInputError: they are over 10,000, or one has a unique key.

        """
        linked = followed_by(calls, then)
        await self._enqueue_linked(linked)
        *ids, then_id = linked.ids.values()
        return Batch(ids, then_id)

    async def start(self, workflow: Workflow) -> dict[str, UUID]:
        """Enqueue the jobs of a workflow, all or none; return their ids by name.

        Raises:
            InvalidInputError: a parent is none of its jobs, jobs wait for each other, or one has a unique key.

        """
        linked = workflow.linked()
        await self._enqueue_linked(linked)
        return linked.ids

    async def _enqueue_linked(self, linked: Linked) -> None:
        self.bells.add(Bell.JOBS)
        with enqueue(linked.calls) as scope:
            await insert_linked(self.connection, linked, scope.traceparent)
            enqueued(scope, list(linked.ids.values()))

    async def publish(self, data: msgspec.Struct) -> UUID:
        """Publish an event that was declared with `@event` and return its id."""
        return (await self.publish_events([new_event(data)]))[0]

    async def publish_events(self, events: Sequence[NewEvent]) -> list[UUID]:
        """Publish events that were built before, in one statement and in their order; return their ids."""
        if not events:
            return []
        self.bells.add(Bell.EVENTS)
        with create(events) as scope:
            await append_events(await self.driver(), events, scope.traceparent)
        return [event.id for event in events]


@asynccontextmanager
async def transaction(record: Record) -> AsyncIterator[Transaction]:
    """Open a transaction that commits when the block ends well and rolls back when it raises.

    Example:
        >>> async with transaction(record) as tx:
        ...     await tx.connection.execute(update(orders).where(orders.c.id == order_id).values(status="confirmed"))
        ...     await tx.publish(OrderConfirmed(order_id=order_id))

    """
    async with AsyncExitStack() as stack:
        with reaching():
            connection = await stack.enter_async_context(record.engine.connect())
        tx = Transaction(connection, release=record.release)
        yield tx
        await commit(connection)
        stack.pop_all()  # nothing is under way: to close it needs no task that protects it from a cancellation
        await connection.close()
    for bell in tx.bells:
        record.wakeup.ring(bell)
