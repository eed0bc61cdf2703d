"""What an order was at any time: its events, folded.

Owns the pure function `fold`: events in, state out, nothing else read. What the events tell is enough to rebuild an
order as its row has it. A failure leaves no event, so of what follows from an order the state knows `pending` and
`ready`. An event that cannot be (a confirmation of what was never created, a second one) changes nothing: anybody with
the right to publish may have put it there.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from headrace.events.queries import Event
from headrace.events.reading import Published, Reading, UnknownEventError, UnreadableEventError
from headrace.events.registry import event_type_of
from storefront.events import (
    EVENTS,
    ConfirmationMailed,
    OrderConfirmed,
    OrderCreated,
    OrderInvoiced,
    OrderItem,
    ShipmentRequested,
)
from storefront.fulfilment import NOTHING_YET, Fulfilment, Progress
from storefront.orders import Status

Act = OrderCreated | OrderConfirmed | OrderInvoiced | ConfirmationMailed | ShipmentRequested

_READING = Reading(event_type_of(kind) for kind in EVENTS)


class OrderState(msgspec.Struct, frozen=True, kw_only=True):
    """An order as its events tell it."""

    id: UUID
    status: Status
    customer_email: str
    currency: str
    items: tuple[OrderItem, ...]
    total_cents: int
    created_at: datetime
    confirmed_at: datetime | None = None
    fulfilment: Fulfilment = NOTHING_YET


class RecordedAct(msgspec.Struct, frozen=True, kw_only=True):
    """One event of an order, as its history shows it."""

    id: UUID
    type: str
    time: datetime
    data: dict[str, Any]
    trace_id: str


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to an order up to a time, oldest first, and what it was then."""

    order_id: UUID
    at: datetime | None
    """The time that was asked for; None for now."""
    events: list[RecordedAct]
    next_cursor: str | None
    """What to give as `cursor` for the events that follow; `state` is folded from all of them in any case."""
    state: OrderState | None
    """None where the order did not exist yet."""


def in_order(events: Iterable[Event]) -> list[Event]:
    """Return events of one order as they followed one another: by their place on the lane, the newest by their ids."""
    return sorted(events, key=lambda event: (event.position is None, event.position or 0, event.id))


def shown(event: Event) -> RecordedAct:
    """Show an event of the log."""
    data = msgspec.json.decode(event.data, type=dict[str, Any])
    return RecordedAct(id=event.id, type=event.type, time=event.time, data=data, trace_id=event.trace_id)


def fold(acts: Iterable[Act]) -> OrderState | None:
    """Return the state that these events of one order lead to, None where it was not created yet."""
    state: OrderState | None = None
    for act in acts:
        state = _created(act, state) if isinstance(act, OrderCreated) else state and _after(state, act)
    return state


def read(event: Published) -> Act | None:
    """Return the event of the storefront that a record holds, None where it is none of them or cannot be read."""
    try:
        act: Act = _READING.data_of(event)
    except (UnknownEventError, UnreadableEventError):
        return None
    return act


def _created(act: OrderCreated, state: OrderState | None) -> OrderState:
    return state or OrderState(
        id=act.order_id,
        status=Status.DRAFT,
        customer_email=act.customer_email,
        currency=act.currency,
        items=act.items,
        total_cents=act.total_cents,
        created_at=act.created_at,
    )


def _after(
    state: OrderState, act: OrderConfirmed | OrderInvoiced | ConfirmationMailed | ShipmentRequested
) -> OrderState:
    match act:
        case OrderConfirmed():
            first = state.status is Status.DRAFT
            confirmed_at = act.confirmed_at if first else state.confirmed_at
            return msgspec.structs.replace(state, status=Status.CONFIRMED, confirmed_at=confirmed_at)
        case OrderInvoiced():
            done = msgspec.structs.replace(state.fulfilment, invoice=Progress.READY)
        case ConfirmationMailed():
            done = msgspec.structs.replace(state.fulfilment, confirmation_mail=Progress.READY)
        case ShipmentRequested():
            done = msgspec.structs.replace(state.fulfilment, warehouse=Progress.READY)
    return msgspec.structs.replace(state, fulfilment=done)
