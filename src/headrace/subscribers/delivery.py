"""The delivery: what a subscriber is given besides the event's data.

Owns the lazily opened transaction of one attempt to handle one event. Its first statement puts the delivery into the
inbox, so what the subscriber writes through it commits together with "handled", and a second delivery of the same event
is refused before it can write anything. For effects outside PostgreSQL, `idempotency_key` is the same at every attempt.
A replay is a delivery of its own: it has its own entry in the inbox, under its own scope, and its own key.
Never keep a delivery after the subscriber has returned.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar
from uuid import UUID

from headrace.events.model import RecordedEvent
from headrace.transaction import Transaction

T = TypeVar("T")

_ENTER_INBOX = "INSERT INTO inbox (subscription, event_id) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING true"


class AlreadyHandled(BaseException):
    """This event was handled before: roll back and acknowledge. No Exception, so that no subscriber catches it."""


class Provides(Protocol):
    """What hands out the instances that applications provide: a process's providers, or a run."""

    def get(self, kind: type[T]) -> T:
        """Return the instance of `kind`."""
        ...


def scope_of(subscription: str, replay: UUID | None) -> str:
    """Return under which name a delivery stands in the inbox, and its job among the deliveries."""
    return subscription if replay is None else f"{subscription}@{replay}"


class Delivery:
    """One attempt to handle one event, as its subscriber sees it."""

    __slots__ = ("_begin", "_providers", "attempt", "event", "replay", "subscription", "transaction")

    def __init__(  # noqa: PLR0913 - what one attempt is made of
        self,
        subscription: str,
        event: RecordedEvent,
        *,
        attempt: int,
        providers: Provides,
        begin: Callable[[], Awaitable[Transaction]],
        replay: UUID | None = None,
    ) -> None:
        """Deliver `event` to `subscription`; `begin` opens the transaction of this attempt."""
        self.subscription = subscription
        self.replay = replay
        """The job of the replay that this delivery belongs to; None for the live one."""
        self.event = event
        self.attempt = attempt
        self._providers = providers
        self._begin = begin
        self.transaction: Transaction | None = None
        """The open transaction, where the subscriber has asked for one."""

    @property
    def idempotency_key(self) -> str:
        """A key for effects outside PostgreSQL, the same at every attempt of this delivery; each replay has another."""
        live = f"{self.subscription}:{self.event.id}"
        return live if self.replay is None else f"{live}:{self.replay}"

    async def begin(self) -> Transaction:
        """Return the transaction that commits together with the entry in the inbox; opened at the first call."""
        if self.transaction is None:
            transaction = await self._begin()
            driver = await transaction.driver()
            if not await driver.fetchval(_ENTER_INBOX, scope_of(self.subscription, self.replay), self.event.id):
                raise AlreadyHandled
            self.transaction = transaction
        return self.transaction

    def get(self, kind: type[T]) -> T:
        """Return the instance of `kind` that an application provides."""
        return self._providers.get(kind)
