"""What subscriptions declare: classes, patterns, filters; and what `combine` finds for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from headrace.application import Application, combine
from headrace.errors import ConfigurationError
from headrace.events.filters import Filter
from headrace.events.model import RecordedEvent
from headrace.events.registry import event
from headrace.subscribers.contract import Kind, Subscription, projection, subscriber
from headrace.subscribers.delivery import Delivery
from headrace.transaction import Transaction


class Address(msgspec.Struct, frozen=True):
    """Where something goes."""

    country: str
    note: msgspec.Raw


@event("orders.order.created", subject="order_id")
class OrderCreated(msgspec.Struct, frozen=True):
    """An order was placed."""

    order_id: str
    address: Address
    total_cents: int
    lines: tuple[Address, ...] = ()
    labels: dict[str, str] | None = None


@event("orders.order.paid", subject="order_id")
class OrderPaid(msgspec.Struct, frozen=True):
    """An order was paid."""

    order_id: str


@event("projects.task.completed")
class TaskCompleted(msgspec.Struct, frozen=True):
    """A task was completed."""

    task_id: str


EVENTS = (OrderCreated, OrderPaid, TaskCompleted)


async def react(delivery: Delivery, data: Any) -> None:  # noqa: ANN401 - whatever it listens to
    """Do nothing."""
    del delivery, data


def resolved(declared: Subscription) -> Subscription:
    """Return what `combine` makes of a subscription."""
    return combine([Application(name="shop", events=EVENTS, subscriptions=(declared,))]).subscriptions[declared.name]


@pytest.mark.parametrize(
    ("events", "types"),
    [
        (("orders.*",), ("orders.order.created", "orders.order.paid")),
        (("*.completed",), ("projects.task.completed",)),
        (("*.order.*", TaskCompleted), ("orders.order.created", "orders.order.paid", "projects.task.completed")),
        ((OrderPaid, "orders.*"), ("orders.order.paid", "orders.order.created")),
        (("projects.task.completed",), ("projects.task.completed",)),
        (("*",), ("orders.order.created", "orders.order.paid", "projects.task.completed")),
    ],
)
def test_patterns_are_resolved_when_applications_are_combined(events: tuple[Any, ...], types: tuple[str, ...]) -> None:
    """All declared types that meet one of them, each once; on record stays what was written."""
    found = resolved(subscriber("shop.all", *events)(react))

    assert found.types == types
    assert found.patterns == tuple(one if isinstance(one, str) else one.__event_type__.type for one in events)


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("order.*", r"order\.\*, which no declared event type meets; did you mean orders"),
        ("orders.order.payed", r"orders\.order\.payed, which no application lists; did you mean orders\.order\.paid"),
    ],
)
def test_combine_is_refused_when_a_pattern_meets_no_type(pattern: str, told: str) -> None:
    """A slip of spelling would be a subscription that is never called."""
    with pytest.raises(ConfigurationError, match=told):
        resolved(subscriber("shop.none", pattern)(react))


def test_star_alone_is_fine_when_nothing_is_declared() -> None:
    """It means whatever there is."""
    every = subscriber("shop.every", "*")(react)

    assert combine([Application(name="shop", subscriptions=(every,))]).subscriptions["shop.every"].types == ()


@pytest.mark.parametrize("path", ["total_cents", "address.country", "lines.country", "labels.colour", "address.note.x"])
def test_filter_is_accepted_when_an_event_has_the_field(path: str) -> None:
    """Fields of objects, of elements of lists, of maps and of any JSON are all fields; one type with it is enough."""
    where: dict[str, Any] = {}
    inner = where
    *above, last = path.split(".")
    for name in above:
        inner = inner.setdefault(name, {})
    inner[last] = ["x"]

    assert resolved(subscriber("shop.some", "orders.*", where=where)(react)).filter == Filter.of(where)


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ({"total_cent": [1]}, "did you mean total_cents"),
        ({"address": {"land": ["CH"]}}, r"address\.land"),
        ({"order_id": {"x": ["CH"]}}, r"order_id\.x"),
    ],
)
def test_combine_is_refused_when_no_event_has_the_field_of_a_filter(where: dict[str, Any], told: str) -> None:
    """Such a filter would pass nothing, or everything, for ever."""
    with pytest.raises(ConfigurationError, match=told):
        resolved(subscriber("shop.some", "orders.*", where=where)(react))


@pytest.mark.parametrize(
    ("events", "where", "told"),
    [
        ((), None, "names no event"),
        (("Orders.*",), None, "is no event type or pattern"),
        ((OrderPaid,), {"order_id": "x"}, r"where\.order_id"),
    ],
)
def test_declaring_is_refused_when_it_is_malformed(events: tuple[Any, ...], where: Any, told: str) -> None:  # noqa: ANN401 - malformed
    """At the import, and with the subscription's name."""
    with pytest.raises(ConfigurationError, match=rf"shop\.bad.*{told}"):
        subscriber("shop.bad", *events, where=where)(react)


def test_projection_declares_its_tables_and_filter() -> None:
    """What a rebuild makes anew, and what it passes over."""

    @projection("shop.counts", "orders.*", where={"total_cents": [{"numeric": [">", 0]}]}, tables=("counts",))
    async def count(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
        del tx, events

    assert count.tables == ("counts",)
    assert count.filter == Filter.of({"total_cents": [{"numeric": [">", 0]}]})


def test_subscriber_declares_that_it_is_ordered() -> None:
    """A failing event holds up its key only where that was asked for."""
    assert subscriber("shop.ordered", OrderPaid, ordered=True)(react).policy.ordered
    assert not subscriber("shop.other", OrderPaid)(react).policy.ordered


def test_function_is_held_to_the_event_by_mypy() -> None:
    """Were a wrong function accepted, the ignores below would be unused, and mypy would say so."""

    @subscriber("shop.paid", OrderPaid, where={"order_id": ["x"]}, ordered=True)
    async def right(delivery: Delivery, paid: OrderPaid) -> None:
        del delivery, paid

    @subscriber("shop.two", OrderPaid, TaskCompleted)
    async def either(delivery: Delivery, data: OrderPaid | TaskCompleted) -> None:
        del delivery, data

    @subscriber("shop.wrong", OrderPaid)  # type: ignore[arg-type] # the function takes another event
    async def wrong(delivery: Delivery, done: TaskCompleted) -> None:
        del delivery, done

    @subscriber("shop.narrow", OrderPaid, TaskCompleted)  # type: ignore[arg-type] # the function takes one of two
    async def narrow(delivery: Delivery, paid: OrderPaid) -> None:
        del delivery, paid

    assert {one.kind for one in (right, either, wrong, narrow)} == {Kind.SUBSCRIBER}
