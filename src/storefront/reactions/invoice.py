"""A confirmed order gets its invoice.

Owns `storefront_invoices` and the numbers on them. The PDF and the event that tells of it commit together with the
job's outcome, so an order has one invoice however often the job runs. A number that was drawn for an attempt that
failed is never used.
Never hold the session open while the PDF is drawn.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.clock import now
from headrace.errors import ConflictError, NotFoundError
from headrace.jobs.call import Options
from headrace.jobs.retry import Retry
from headrace.subscribers.contract import subscriber
from headrace.subscribers.delivery import Delivery
from headrace.tasks.contract import task
from headrace.tasks.run import Run
from headrace.transaction import Transaction
from storefront.events import OrderConfirmed, OrderInvoiced
from storefront.invoice import Invoice, InvoiceLine, invoice_number
from storefront.orders import Order, find, order_tag
from storefront.printer import Printer

_FIND = text("SELECT number, issued_at, pdf FROM storefront_invoices WHERE order_id = :order_id")

_DRAW_NUMBER = text("SELECT nextval('storefront_invoice_numbers')")

_INSERT = text("""
    INSERT INTO storefront_invoices (order_id, number, issued_at, pdf) VALUES (:order_id, :number, :issued_at, :pdf)
    ON CONFLICT (order_id) DO NOTHING
""")


class IssuedInvoice(msgspec.Struct, frozen=True):
    """An invoice on record."""

    number: str
    issued_at: datetime
    pdf: bytes


@subscriber("storefront.invoice", OrderConfirmed)
async def invoice_confirmed_order(delivery: Delivery, confirmed: OrderConfirmed) -> None:
    """Have the invoice of a confirmed order drawn."""
    tx = await delivery.begin()
    tagged = render_invoice.options(Options(tags=(order_tag(confirmed.order_id),)))
    await tx.enqueue(tagged, confirmed.order_id)


@task(
    "storefront.render_invoice",
    retry=Retry(max_attempts=6, never=(NotFoundError, ConflictError)),
    timeout_seconds=60,
)
async def render_invoice(run: Run, order_id: UUID) -> str:
    """Draw the invoice of a confirmed order, put it on record and return its number."""
    async with run.read() as connection:
        order = await find(connection, order_id)
        issued = await find_invoice(connection, order_id)
        number = issued.number if issued else invoice_number(await _draw_number(connection))
    if issued:
        return number
    issued_at = now()
    pdf = await run.get(Printer).print(_invoice_of(order, number, issued_at))
    await _put_on_record(await run.begin(), order_id, IssuedInvoice(number, issued_at, pdf))
    return number


async def find_invoice(connection: AsyncConnection, order_id: UUID) -> IssuedInvoice | None:
    """Return the invoice of an order, None before it is issued."""
    row = (await connection.execute(_FIND, {"order_id": order_id})).one_or_none()
    return None if row is None else IssuedInvoice(row.number, row.issued_at, row.pdf)


async def _draw_number(connection: AsyncConnection) -> int:
    sequence: int = (await connection.execute(_DRAW_NUMBER)).scalar_one()
    return sequence


async def _put_on_record(tx: Transaction, order_id: UUID, invoice: IssuedInvoice) -> None:
    row = msgspec.structs.asdict(invoice) | {"order_id": order_id}
    if (await tx.connection.execute(_INSERT, row)).rowcount == 1:
        await tx.publish(OrderInvoiced(order_id=order_id, actor=render_invoice.name, invoice_number=invoice.number))


def _invoice_of(order: Order, number: str, issued_at: datetime) -> Invoice:
    if order.confirmed_at is None:
        message = f"the order {order.id} is a draft: there is nothing to invoice"
        raise ConflictError(message)
    return Invoice(
        number=number,
        order_id=str(order.id),
        customer_email=order.customer_email,
        currency=order.currency,
        issued_on=issued_at.date(),
        ordered_at=order.created_at,
        confirmed_at=order.confirmed_at,
        lines=tuple(InvoiceLine(item.sku, item.quantity, item.unit_price_cents) for item in order.items),
    )
