"""What a subscription declares, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from headrace.errors import ConfigurationError
from headrace.events.model import RecordedEvent
from headrace.events.registry import event
from headrace.jobs.retry import Retry
from headrace.subscribers.contract import Kind, projection, subscriber
from headrace.subscribers.delivery import Delivery
from headrace.transaction import Transaction


@event("shop.customer.joined", subject="customer_id")
class Joined(msgspec.Struct, frozen=True):
    """A customer joined."""

    customer_id: str


@event("shop.customer.left", subject="customer_id")
class Left(msgspec.Struct, frozen=True):
    """A customer left."""

    customer_id: str


def test_subscription_says_all_when_it_is_declared() -> None:
    """The decorator returns a value with name, kind, types, policy and the function's first sentence."""
    retry = Retry(max_attempts=3)

    @subscriber("shop.greet", Joined, Left, retry=retry, timeout_seconds=5.0)
    async def greet(delivery: Delivery, either: Joined | Left) -> None:
        """Greet a customer.

        More words.
        """
        del delivery, either

    assert (greet.name, greet.kind, greet.types) == (
        "shop.greet",
        Kind.SUBSCRIBER,
        ("shop.customer.joined", "shop.customer.left"),
    )
    assert (greet.policy.retry, greet.policy.timeout_seconds) == (retry, 5.0)
    assert greet.description == "Greet a customer."


def test_projection_is_its_own_kind_when_it_is_declared() -> None:
    """A projection is declared the same way."""

    @projection("shop.counts", Joined)
    async def count(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
        del tx, events

    assert (count.kind, count.types) == (Kind.PROJECTION, ("shop.customer.joined",))


def test_subscriber_is_refused_when_it_is_no_coroutine_function() -> None:
    """A plain function cannot react, and says so at once."""

    def plain(delivery: Delivery, joined: Joined) -> None:
        del delivery, joined

    with pytest.raises(ConfigurationError, match="async def"):
        subscriber("shop.greet", Joined)(plain)  # type: ignore[arg-type]  # what the test is about


def test_subscriber_is_refused_when_it_listens_to_nothing() -> None:
    """A subscription without events would wait for ever."""

    async def idle(delivery: Delivery, nothing: object) -> None:
        del delivery, nothing

    with pytest.raises(ConfigurationError, match="names no event"):
        subscriber("shop.idle")(idle)


def test_subscriber_is_refused_when_the_class_is_no_event() -> None:
    """A struct that was not declared with @event has no type to listen to."""

    class Undeclared(msgspec.Struct, frozen=True):
        pass

    async def greet(delivery: Delivery, undeclared: Undeclared) -> None:
        del delivery, undeclared

    with pytest.raises(ConfigurationError, match="@event"):
        subscriber("shop.greet", Undeclared)(greet)
