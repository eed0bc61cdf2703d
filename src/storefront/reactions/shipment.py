"""A confirmed order is announced to the warehouse.

Owns `storefront_shipments`. The warehouse is told at least once and recognizes a repeat by its key, which is the job's
id and so the same at every attempt and after every redrive.
Never hold a connection to the record while the warehouse is waited for.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import text

from headrace.errors import ConflictError, NotFoundError
from headrace.jobs.call import Options
from headrace.jobs.retry import Retry
from headrace.subscribers.contract import subscriber
from headrace.subscribers.delivery import Delivery
from headrace.tasks.contract import task
from headrace.tasks.run import Run
from storefront.events import OrderConfirmed, ShipmentRequested
from storefront.orders import Order, find, order_tag
from storefront.warehouse import Parcel, Shipment, Warehouse

_FIND = text("SELECT reference FROM storefront_shipments WHERE order_id = :order_id")

_INSERT = text("""
    INSERT INTO storefront_shipments (order_id, status, reference) VALUES (:order_id, :status, :reference)
    ON CONFLICT (order_id) DO NOTHING
""")


@subscriber("storefront.warehouse", OrderConfirmed)
async def ship_confirmed_order(delivery: Delivery, confirmed: OrderConfirmed) -> None:
    """Have a confirmed order announced to the warehouse."""
    tx = await delivery.begin()
    tagged = request_shipment.options(Options(tags=(order_tag(confirmed.order_id),)))
    await tx.enqueue(tagged, confirmed.order_id)


@task(
    "storefront.request_shipment",
    retry=Retry(max_attempts=6, never=(NotFoundError, ConflictError)),
    timeout_seconds=60,
)
async def request_shipment(run: Run, order_id: UUID) -> str:
    """Ask the warehouse to ship an order and return its reference, "" where it gave none."""
    async with run.read() as connection:
        order = await find(connection, order_id)
        known: str | None = (await connection.execute(_FIND, {"order_id": order_id})).scalar_one_or_none()
    if known is not None:
        return known
    receipt = await run.get(Warehouse).request_shipment(
        _shipment_of(order), key=run.idempotency_key, attempt=run.attempt
    )
    tx = await run.begin()
    row = {"order_id": order_id, "status": receipt.status, "reference": receipt.reference}
    if (await tx.connection.execute(_INSERT, row)).rowcount == 1:
        await tx.publish(ShipmentRequested(order_id=order_id, actor=request_shipment.name, reference=receipt.reference))
    return receipt.reference


def _shipment_of(order: Order) -> Shipment:
    if order.confirmed_at is None:
        message = f"the order {order.id} is a draft: there is nothing to ship"
        raise ConflictError(message)
    return Shipment(
        order_id=str(order.id),
        customer_email=order.customer_email,
        confirmed_at=order.confirmed_at,
        items=tuple(Parcel(item.sku, item.quantity) for item in order.items),
    )
