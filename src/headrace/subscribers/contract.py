"""What a subscription is: its name, the events it listens to, and the function that reacts.

Owns the decorators `subscriber` and `projection` and the frozen value `Subscription` that they return. Declaring
registers nothing: an `Application` lists its subscriptions. The name is the consumer group's and stands on record with
every delivery.

A subscriber is called once per event, events of different keys at the same time, those of one key in order; what it
writes through `delivery.begin()` happens once, effects elsewhere at least once. A failing delivery becomes a job and
holds nothing up. A projection is called with batches, in the order of a lane, in a transaction that commits with its
checkpoint: exactly once. A failing batch is tried again until it succeeds, and its lane waits meanwhile, visibly. Never
rename a subscription: a new name is a new group, which begins at the present.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar, overload

import msgspec

from headrace.errors import ConfigurationError
from headrace.events.model import RecordedEvent
from headrace.events.registry import EventType, event_type_of
from headrace.jobs.retry import Retry
from headrace.subscribers.delivery import Delivery
from headrace.transaction import Transaction

A = TypeVar("A", bound=msgspec.Struct)
B = TypeVar("B", bound=msgspec.Struct)

Reaction = Coroutine[Any, Any, None]
Handle = Callable[[Delivery, Any], Reaction]
Apply = Callable[[Transaction, Sequence[RecordedEvent]], Reaction]


class Kind(StrEnum):
    """How a subscription reacts."""

    SUBSCRIBER = "subscriber"
    PROJECTION = "projection"


@dataclass(frozen=True, slots=True)
class Policy:
    """What a subscriber declares about its deliveries."""

    retry: Retry = Retry()  # noqa: RUF009 - a frozen value
    timeout_seconds: float | None = 30.0


@dataclass(frozen=True, slots=True)
class Subscription:
    """A declared subscription. Make it with `subscriber` or `projection`."""

    name: str
    kind: Kind
    events: tuple[EventType, ...]
    function: Callable[..., Reaction]
    policy: Policy
    description: str

    @property
    def types(self) -> tuple[str, ...]:
        """The event types that it listens to."""
        return tuple(event.type for event in self.events)


@overload
def subscriber(
    name: str, one: type[A], /, *, retry: Retry | None = None, timeout_seconds: float | None = 30.0
) -> Callable[[Callable[[Delivery, A], Reaction]], Subscription]: ...
@overload
def subscriber(
    name: str, one: type[A], other: type[B], /, *, retry: Retry | None = None, timeout_seconds: float | None = 30.0
) -> Callable[[Callable[[Delivery, A | B], Reaction]], Subscription]: ...
@overload
def subscriber(
    name: str, /, *events: type[msgspec.Struct], retry: Retry | None = None, timeout_seconds: float | None = 30.0
) -> Callable[[Handle], Subscription]: ...
def subscriber(
    name: str, /, *events: type[msgspec.Struct], retry: Retry | None = None, timeout_seconds: float | None = 30.0
) -> Callable[[Handle], Subscription]:
    """Declare a function that reacts to each event.

    Args:
        name: the stable name of the group, such as `shop.welcome`.
        events: the declared event classes to listen to.
        retry: when a failed delivery is tried again; 10 attempts with exponential backoff where not given.
        timeout_seconds: how long one attempt may take; None for no bound.

    Raises:
        ConfigurationError: no event is named, a class is not an event, or the function is not a coroutine function.

    Example:
        >>> @subscriber("shop.welcome", CustomerJoined)
        ... async def welcome(delivery: Delivery, joined: CustomerJoined) -> None:
        ...     tx = await delivery.begin()
        ...     await tx.enqueue(greet, joined.name)

    """
    policy = Policy(retry=retry or Retry(), timeout_seconds=timeout_seconds)

    def declare(function: Handle) -> Subscription:
        return _declared(name, Kind.SUBSCRIBER, events, function, policy)

    return declare


def projection(name: str, /, *events: type[msgspec.Struct]) -> Callable[[Apply], Subscription]:
    """Declare a function that folds the events of a lane into tables, batch by batch and exactly once.

    Args:
        name: the stable name of the group, such as `shop.counts`.
        events: the declared event classes to listen to.

    Raises:
        ConfigurationError: no event is named, a class is not an event, or the function is not a coroutine function.

    Example:
        >>> @projection("shop.counts", CustomerJoined)
        ... async def count(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
        ...     await tx.connection.execute(update(counts).values(customers=counts.c.customers + len(events)))

    """

    def declare(function: Apply) -> Subscription:
        return _declared(name, Kind.PROJECTION, events, function, Policy())

    return declare


def _declared(
    name: str, kind: Kind, events: tuple[type[msgspec.Struct], ...], function: Callable[..., Reaction], policy: Policy
) -> Subscription:
    if not inspect.iscoroutinefunction(function):
        message = f"the {kind} {name} must be declared with `async def`"
        raise ConfigurationError(message)
    if not events:
        message = f"the {kind} {name} names no event to listen to"
        raise ConfigurationError(message)
    description = inspect.cleandoc(function.__doc__ or "").split("\n\n", 1)[0].replace("\n", " ")
    return Subscription(name, kind, tuple(event_type_of(event) for event in events), function, policy, description)
