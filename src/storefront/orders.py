"""Orders: placed as drafts, confirmed once.

Owns `storefront_orders`. Every change is one statement in the caller's transaction, and the event that tells of it is
published in the same transaction; who listens is unknown here. Two confirmations of one order cannot both succeed: the
UPDATE finds a draft, or it finds nothing.
Never enqueue a job, send anything or call anybody here: what should follow, follows from the events.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.clock import new_id
from headrace.errors import ConflictError, NotFoundError
from headrace.transaction import Transaction
from storefront.drafts import OrderDraft
from storefront.events import OrderConfirmed, OrderCreated, OrderItem

_COLUMNS = "id, status, customer_email, currency, CAST(items AS text) AS items, total_cents, created_at, confirmed_at"

_INSERT = f"""
    INSERT INTO storefront_orders (id, customer_email, currency, items, total_cents)
    VALUES ($1, $2, $3, $4::jsonb, $5) RETURNING {_COLUMNS}
"""  # noqa: S608 - the columns are ours

_CONFIRM = f"""
    UPDATE storefront_orders SET status = 'confirmed', confirmed_at = now()
    WHERE id = $1 AND status = 'draft' RETURNING {_COLUMNS}
"""  # noqa: S608 - the same

_FIND = text(f"SELECT {_COLUMNS} FROM storefront_orders WHERE id = :id")  # noqa: S608 - the same

_ITEMS = msgspec.json.Decoder(tuple[OrderItem, ...])


class Status(StrEnum):
    """How far an order is."""

    DRAFT = "draft"
    CONFIRMED = "confirmed"


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """An order on record."""

    id: UUID
    status: Status
    customer_email: str
    currency: str
    items: tuple[OrderItem, ...]
    total_cents: int
    created_at: datetime
    confirmed_at: datetime | None


async def place(tx: Transaction, draft: OrderDraft, *, actor: str) -> Order:
    """Put a draft, checked before, on record as an order."""
    driver = await tx.driver()
    items = msgspec.json.encode(draft.items).decode()
    row = (new_id(), draft.customer_email, draft.currency, items, draft.total_cents)
    (placed,) = await driver.fetch(_INSERT, *row)
    order = _order(placed)
    created = OrderCreated(
        order_id=order.id,
        actor=actor,
        created_at=order.created_at,
        customer_email=order.customer_email,
        currency=order.currency,
        items=order.items,
        total_cents=order.total_cents,
    )
    await tx.publish(created)
    return order


async def confirm(tx: Transaction, order_id: UUID, *, actor: str) -> Order:
    """Make a draft binding.

    Raises:
        NotFoundError: there is no such order.
        ConflictError: it was confirmed before.

    """
    row = await (await tx.driver()).fetchrow(_CONFIRM, order_id)
    if row is None:
        order = await find(tx.connection, order_id)
        message = f"the order is {order.status}: only a draft can be confirmed"
        raise ConflictError(message)
    order = _order(row)
    confirmed = OrderConfirmed(
        order_id=order.id,
        actor=actor,
        confirmed_at=row["confirmed_at"],
        currency=order.currency,
        total_cents=order.total_cents,
    )
    await tx.publish(confirmed)
    return order


async def find(connection: AsyncConnection, order_id: UUID) -> Order:
    """Return an order.

    Raises:
        NotFoundError: there is no such order.

    """
    row = (await connection.execute(_FIND, {"id": order_id})).mappings().one_or_none()
    if row is None:
        message = f"there is no order {order_id}"
        raise NotFoundError(message)
    return _order(row)


def order_tag(order_id: UUID) -> str:
    """Return the tag of every job that works for an order: `GET /v1/jobs?tag=order:{id}` lists them."""
    return f"order:{order_id}"


def _order(row: Mapping[Any, Any]) -> Order:
    return Order(
        id=row["id"],
        status=Status(row["status"]),
        customer_email=row["customer_email"],
        currency=row["currency"],
        items=_ITEMS.decode(row["items"]),
        total_cents=row["total_cents"],
        created_at=row["created_at"],
        confirmed_at=row["confirmed_at"],
    )
