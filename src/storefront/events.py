"""What can happen to an order: the storefront's published language.

Owns the five event types; each has the order's id as its subject, so that the events of one order are handled in order.
Whoever reacts knows these and nothing else of the code that publishes them. Money is in minor units of `currency`.
Never change the meaning of a field: publish a new version.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec

from headrace.events.registry import event

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time with its offset."""


class OrderItem(msgspec.Struct, frozen=True):
    """One article of an order."""

    sku: str
    quantity: int
    unit_price_cents: int


@event("orders.order.created", subject="order_id")
class OrderCreated(msgspec.Struct, frozen=True, kw_only=True):
    """An order was placed; it is a draft until it is confirmed."""

    order_id: UUID
    actor: str
    created_at: Moment
    customer_email: str
    currency: str
    items: tuple[OrderItem, ...]
    total_cents: int


@event("orders.order.confirmed", subject="order_id")
class OrderConfirmed(msgspec.Struct, frozen=True, kw_only=True):
    """An order became binding."""

    order_id: UUID
    actor: str
    confirmed_at: Moment
    currency: str
    total_cents: int


@event("orders.order.invoiced", subject="order_id")
class OrderInvoiced(msgspec.Struct, frozen=True, kw_only=True):
    """An order's invoice was issued and can be fetched."""

    order_id: UUID
    actor: str
    invoice_number: str


@event("orders.order.confirmation_mailed", subject="order_id")
class ConfirmationMailed(msgspec.Struct, frozen=True, kw_only=True):
    """The mail server took the confirmation with the invoice."""

    order_id: UUID
    actor: str
    message_id: str


@event("orders.order.shipment_requested", subject="order_id")
class ShipmentRequested(msgspec.Struct, frozen=True, kw_only=True):
    """The warehouse acknowledged the order; `reference` is its own name for it, "" where it gave none."""

    order_id: UUID
    actor: str
    reference: str


EVENTS = (OrderCreated, OrderConfirmed, OrderInvoiced, ConfirmationMailed, ShipmentRequested)
