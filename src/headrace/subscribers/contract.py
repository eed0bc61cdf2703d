"""What a subscription is: its name, the events it listens to, and the function that reacts.

Owns the decorators `subscriber` and `projection` and the frozen value `Subscription` that they return. Declaring
registers nothing: an `Application` lists its subscriptions. The name is the consumer group's and stands on record with
every delivery.

A subscriber is called once per event, events of different keys at the same time, those of one key in order; what it
writes through `delivery.begin()` happens once, effects elsewhere at least once. A failing delivery becomes a job and
holds nothing up. A projection is called with batches, in the order of a lane, in a transaction that commits with its
checkpoint: exactly once. A failing batch is tried again until it succeeds, and its lane waits meanwhile, visibly. Both
may name patterns of types beside classes, and a filter on data; what these leave out is passed over unseen. Never
rename a subscription: a new name is a new group, which begins at the present.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeVar, overload

import msgspec

from headrace.errors import ConfigurationError, InvalidInputError
from headrace.events.filters import Filter
from headrace.events.model import RecordedEvent
from headrace.events.patterns import checked
from headrace.events.registry import EventType, event_type_of
from headrace.jobs.retry import Retry
from headrace.subscribers.delivery import Delivery
from headrace.transaction import Transaction

A = TypeVar("A", bound=msgspec.Struct)
B = TypeVar("B", bound=msgspec.Struct)

Where = Mapping[str, Any]
"""A filter as it is declared: see `headrace.events.filters`."""

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
    ordered: bool = False
    """Whether the later events of a key wait while one of them fails."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """A declared subscription. Make it with `subscriber` or `projection`."""

    name: str
    kind: Kind
    patterns: tuple[str, ...]
    """The types and patterns that it names, as they stand on record."""
    events: tuple[EventType, ...]
    """The declared types that it listens to; those that a pattern meets are here once `combine` has found them."""
    function: Callable[..., Reaction]
    policy: Policy
    description: str
    filter: Filter | None = None
    """What the data have to be for an event to be handled; None for any."""
    tables: tuple[str, ...] = ()
    """The tables that a projection writes to, all of them, where it can be rebuilt."""

    @property
    def types(self) -> tuple[str, ...]:
        """The declared event types that it listens to."""
        return tuple(event.type for event in self.events)


@overload
def subscriber(
    name: str,
    one: type[A],
    /,
    *,
    where: Where | None = None,
    ordered: bool = False,
    retry: Retry | None = None,
    timeout_seconds: float | None = 30.0,
) -> Callable[[Callable[[Delivery, A], Reaction]], Subscription]: ...
@overload
def subscriber(
    name: str,
    one: type[A],
    other: type[B],
    /,
    *,
    where: Where | None = None,
    ordered: bool = False,
    retry: Retry | None = None,
    timeout_seconds: float | None = 30.0,
) -> Callable[[Callable[[Delivery, A | B], Reaction]], Subscription]: ...
@overload
def subscriber(
    name: str,
    /,
    *events: type[msgspec.Struct] | str,
    where: Where | None = None,
    ordered: bool = False,
    retry: Retry | None = None,
    timeout_seconds: float | None = 30.0,
) -> Callable[[Handle], Subscription]: ...
def subscriber(
    name: str,
    /,
    *events: type[msgspec.Struct] | str,
    where: Where | None = None,
    ordered: bool = False,
    retry: Retry | None = None,
    timeout_seconds: float | None = 30.0,
) -> Callable[[Handle], Subscription]:
    """Declare a function that reacts to each event.

    Args:
        name: the stable name of the group, such as `shop.welcome`.
        events: what to listen to: declared event classes, and patterns of types such as `orders.*`; `*` stands for any
            characters. The function is given the declared class of each event.
        where: a filter on data, see `headrace.events.filters`; events that do not meet it are passed over.
        ordered: whether an event that fails holds up the later ones of its key until it is handled or skipped.
        retry: when a failed delivery is tried again; 10 attempts with exponential backoff where not given.
        timeout_seconds: how long one attempt may take; None for no bound.

    Raises:
        ConfigurationError: no event is named, a class is not an event, a pattern or the filter is malformed, or the
            function is not a coroutine function.

    Example:
        >>> @subscriber("shop.welcome", CustomerJoined, where={"country": ["CH", "LI"]})
        ... async def welcome(delivery: Delivery, joined: CustomerJoined) -> None:
        ...     tx = await delivery.begin()
        ...     await tx.enqueue(greet, joined.name)

    """
    policy = Policy(retry=retry or Retry(), timeout_seconds=timeout_seconds, ordered=ordered)
    listening = _listening(f"the subscriber {name}", events, where)

    def declare(function: Handle) -> Subscription:
        return _declared(name, Kind.SUBSCRIBER, listening, function, policy)

    return declare


def projection(
    name: str, /, *events: type[msgspec.Struct] | str, where: Where | None = None, tables: Sequence[str] = ()
) -> Callable[[Apply], Subscription]:
    """Declare a function that folds the events of a lane into tables, batch by batch and exactly once.

    Args:
        name: the stable name of the group, such as `shop.counts`.
        events: what to listen to: declared event classes, and patterns of types such as `orders.*`.
        where: a filter on data, see `headrace.events.filters`; events that do not meet it are passed over.
        tables: the tables that the function writes to, all of them: what a rebuild makes anew.

    Raises:
        ConfigurationError: no event is named, a class is not an event, a pattern or the filter is malformed, or the
            function is not a coroutine function.

    Example:
        >>> @projection("shop.counts", CustomerJoined, tables=("counts",))
        ... async def count(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
        ...     await tx.connection.execute(update(counts).values(customers=counts.c.customers + len(events)))

    """
    listening = _listening(f"the projection {name}", events, where)

    def declare(function: Apply) -> Subscription:
        return replace(_declared(name, Kind.PROJECTION, listening, function, Policy()), tables=tuple(tables))

    return declare


@dataclass(frozen=True, slots=True)
class _Listening:
    """What a declaration listens to."""

    patterns: tuple[str, ...]
    events: tuple[EventType, ...]
    filter: Filter | None


def _listening(told: str, events: Sequence[type[msgspec.Struct] | str], where: Where | None) -> _Listening:
    if not events:
        message = f"{told} names no event to listen to"
        raise ConfigurationError(message)
    declared = [one if isinstance(one, str) else event_type_of(one) for one in events]
    try:
        patterns = tuple(checked(one) if isinstance(one, str) else one.type for one in declared)
        read = None if where is None else Filter.of(where, field="where")
    except InvalidInputError as error:
        message = f"{told} cannot listen: {error}"
        raise ConfigurationError(message) from error
    return _Listening(patterns, tuple(one for one in declared if isinstance(one, EventType)), read)


def _declared(
    name: str, kind: Kind, listening: _Listening, function: Callable[..., Reaction], policy: Policy
) -> Subscription:
    if not inspect.iscoroutinefunction(function):
        message = f"the {kind} {name} must be declared with `async def`"
        raise ConfigurationError(message)
    return Subscription(
        name=name,
        kind=kind,
        patterns=listening.patterns,
        events=listening.events,
        function=function,
        policy=policy,
        description=inspect.cleandoc(function.__doc__ or "").split("\n\n", 1)[0].replace("\n", " "),
        filter=listening.filter,
    )
