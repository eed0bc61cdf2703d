"""One live attempt to handle one event.

Owns what happens around a subscriber's function: read the event's data, open the span, run under the deadline, commit
what was written through the delivery together with its entry in the inbox. It returns how the attempt ended and decides
nothing else. Whatever a subscriber raises is a failure returned, never an exception that leaves here.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from enum import Enum, auto
from types import TracebackType
from typing import Self
from uuid import UUID

from headrace.clock import now
from headrace.database.record import Record
from headrace.events.model import RecordedEvent
from headrace.events.reading import Reading, UnknownEventError, UnreadableEventError
from headrace.providers import Providers
from headrace.subscribers.contract import Subscription
from headrace.subscribers.deadlines import Deadlines, DeliveryTimeoutError, Worker
from headrace.subscribers.delivery import AlreadyHandled, Delivery
from headrace.subscribers.failures import Failure
from headrace.subscribers.listening import UNKNOWN_WAIT_SECONDS
from headrace.telemetry.messages import Message
from headrace.telemetry.names import event_destination
from headrace.telemetry.scope import Scope
from headrace.telemetry.spans import process
from headrace.transaction import Transaction, transaction


class Handled(Enum):
    """How a successful attempt stands with the inbox."""

    ENTERED = auto()
    """It is in the inbox: its own transaction put it there, or an earlier delivery's."""
    TO_ENTER = auto()
    """The subscriber used no transaction: the inbox is still to be told."""


class Session:
    """The transaction of one attempt, if it asks for one; `gate` bounds how many are open at once in this process."""

    __slots__ = ("_gate", "_record", "_stack")

    def __init__(self, record: Record, gate: asyncio.Semaphore) -> None:
        self._record = record
        self._gate = gate
        self._stack: AsyncExitStack | None = None

    async def begin(self) -> Transaction:
        """Open the transaction; it is refused a second time to one that was told that its event is handled."""
        if self._stack is not None:
            raise AlreadyHandled
        self._stack = AsyncExitStack()
        await self._stack.enter_async_context(self._gate)
        return await self._stack.enter_async_context(transaction(self._record))

    async def __aenter__(self) -> Self:
        """Open nothing yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Commit, or roll back where an exception passes."""
        if self._stack is not None:
            await self._stack.__aexit__(kind, error, traceback)


class Handling:
    """Handles the events of one subscriber."""

    def __init__(
        self,
        subscription: Subscription,
        record: Record,
        *,
        providers: Providers,
        gate: asyncio.Semaphore,
        replay: UUID | None = None,
    ) -> None:
        """Handle for `subscription`; `gate` bounds the transactions that this process has open at once.

        With `replay`, the job of one, events are handled as part of it.
        """
        self._subscription = subscription
        self._replay = replay
        self._record = record
        self._providers = providers
        self._gate = gate
        self.deadlines = Deadlines(subscription.policy.timeout_seconds)
        self._reading = Reading(subscription.events)

    async def attempt(self, event: RecordedEvent, worker: Worker, received: str | None = None) -> Handled | Failure:
        """Handle an event for the first time, in the task `worker`; `received` names the read that brought it."""
        age = (now() - event.created_at).total_seconds()
        linked = (received,) if received else ()
        message = Message(event.id, event.traceparent, age_seconds=age, replay=self._replay is not None, linked=linked)
        with process(event_destination(event.type), message, group=self._subscription.name) as scope:
            return await self._attempt(event, worker, scope)

    async def _attempt(self, event: RecordedEvent, worker: Worker, scope: Scope) -> Handled | Failure:
        try:
            data = self._reading.data_of(event)
        except UnreadableEventError as error:
            scope.failed(error)
            return Failure(error, "rejected", scope.traceparent)  # no attempt mends what stands on record
        except UnknownEventError as error:
            scope.failed(error)
            return Failure(error, "failed", scope.traceparent, again_seconds=UNKNOWN_WAIT_SECONDS)
        try:
            return await self._run(event, data, worker)
        except AlreadyHandled:
            return Handled.ENTERED
        except asyncio.CancelledError as error:
            if worker.cancelling():
                raise
            failure = Failure(error, "failed", scope.traceparent)  # not this worker: what it awaited was cancelled
        except DeliveryTimeoutError as error:
            failure = Failure(error, "timed_out", scope.traceparent)
        except (Exception, SystemExit, BaseExceptionGroup) as error:  # noqa: BLE001 - failure table: a job on record
            failure = Failure(error, "failed", scope.traceparent)
        scope.failed(failure.error)
        return failure

    async def _run(self, event: RecordedEvent, data: object, worker: Worker) -> Handled:
        async with Session(self._record, self._gate) as session:
            delivery = Delivery(
                self._subscription.name,
                event,
                attempt=1,
                providers=self._providers,
                begin=session.begin,
                replay=self._replay,
            )
            await self.deadlines.within(worker, self._subscription.function(delivery, data))
            return Handled.TO_ENTER if delivery.transaction is None else Handled.ENTERED
