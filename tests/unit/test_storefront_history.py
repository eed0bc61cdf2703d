"""An order's state at any time, folded from its events."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest

from headrace.events.registry import event_type_of
from storefront.events import (
    ConfirmationMailed,
    OrderConfirmed,
    OrderCreated,
    OrderInvoiced,
    OrderItem,
    ShipmentRequested,
)
from storefront.fulfilment import NOTHING_YET, Fulfilment, Progress
from storefront.history import Act, OrderState, fold, read
from storefront.orders import Status

ORDER = UUID("01939c2e-7f00-7000-8000-0123456789ab")
MORNING = datetime(2026, 11, 20, 8, tzinfo=UTC)
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
CREATED = OrderCreated(
    order_id=ORDER,
    actor="api",
    created_at=MORNING,
    customer_email="ada@example.com",
    currency="EUR",
    items=(OrderItem("MUG", 2, 1250),),
    total_cents=2500,
)
CONFIRMED = OrderConfirmed(order_id=ORDER, actor="api", confirmed_at=NOON, currency="EUR", total_cents=2500)
INVOICED = OrderInvoiced(order_id=ORDER, actor="job", invoice_number="INV-000001")
MAILED = ConfirmationMailed(order_id=ORDER, actor="job", message_id="<1@example.com>")
SHIPPED = ShipmentRequested(order_id=ORDER, actor="job", reference="W-1")
DRAFT = OrderState(
    id=ORDER,
    status=Status.DRAFT,
    customer_email="ada@example.com",
    currency="EUR",
    items=(OrderItem("MUG", 2, 1250),),
    total_cents=2500,
    created_at=MORNING,
)
BINDING = msgspec.structs.replace(DRAFT, status=Status.CONFIRMED, confirmed_at=NOON)
READY = Progress.READY


def followed(fulfilment: Fulfilment) -> OrderState:
    """Return the confirmed order with what followed."""
    return msgspec.structs.replace(BINDING, fulfilment=fulfilment)


@pytest.mark.parametrize(
    ("acts", "state"),
    [
        ([], None),
        ([CREATED], DRAFT),
        ([CREATED, CONFIRMED], BINDING),
        ([CREATED, CONFIRMED, INVOICED], followed(Fulfilment(invoice=READY))),
        ([CREATED, CONFIRMED, SHIPPED], followed(Fulfilment(warehouse=READY))),
        (
            [CREATED, CONFIRMED, SHIPPED, INVOICED, MAILED],
            followed(Fulfilment(invoice=READY, confirmation_mail=READY, warehouse=READY)),
        ),
    ],
)
def test_state_is_that_of_the_moment_when_events_are_folded(acts: list[Act], state: OrderState | None) -> None:
    """Each prefix of the history gives the state as of then."""
    assert fold(acts) == state


def test_event_changes_nothing_when_it_cannot_be() -> None:
    """Events before the creation, second creations and second confirmations are passed over."""
    later = msgspec.structs.replace(CONFIRMED, confirmed_at=datetime(2027, 1, 1, tzinfo=UTC))
    other = msgspec.structs.replace(CREATED, total_cents=1)

    state = fold([CONFIRMED, MAILED, CREATED, other, CONFIRMED, later])

    assert state == BINDING
    assert state.fulfilment == NOTHING_YET


class Told(msgspec.Struct, frozen=True):
    """What a record holds of an event."""

    type: str
    data: str
    version: int = 1


@pytest.mark.parametrize("act", [CREATED, CONFIRMED, INVOICED, MAILED, SHIPPED])
def test_event_is_read_back_when_it_comes_from_the_log(act: Act) -> None:
    """What was published is what is folded."""
    back = read(Told(event_type_of(type(act)).type, msgspec.json.encode(act).decode()))

    assert back == act


@pytest.mark.parametrize(
    ("event_type", "data"),
    [("orders.order.lost", "{}"), ("orders.order.confirmed", '{"order_id": 1}'), ("orders.order.confirmed", "{")],
)
def test_event_is_passed_over_when_it_is_not_readable(event_type: str, data: str) -> None:
    """A stranger's event does not break the history."""
    assert read(Told(event_type, data)) is None
