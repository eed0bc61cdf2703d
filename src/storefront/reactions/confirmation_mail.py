"""An invoiced order is confirmed to the customer by mail, with the invoice attached.

Owns `storefront_confirmation_mails` and the words of the mail. A mail cannot be taken back: a worker that dies between
the mail server's 250 and the commit makes the mail go out again, with the same Message-ID.
Never hold a connection to the record while the mail server is waited for.
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
from storefront.events import ConfirmationMailed, OrderInvoiced
from storefront.invoice import SELLER
from storefront.mail import Attachment, Mail, Mailer
from storefront.money import format_money
from storefront.orders import Order, find, order_tag
from storefront.reactions.invoice import IssuedInvoice, find_invoice

_FIND = text("SELECT message_id FROM storefront_confirmation_mails WHERE order_id = :order_id")

_INSERT = text("""
    INSERT INTO storefront_confirmation_mails (order_id, message_id) VALUES (:order_id, :message_id)
    ON CONFLICT (order_id) DO NOTHING
""")


@subscriber("storefront.confirmation_mail", OrderInvoiced)
async def mail_invoiced_order(delivery: Delivery, invoiced: OrderInvoiced) -> None:
    """Have the confirmation of an invoiced order mailed."""
    tx = await delivery.begin()
    tagged = mail_confirmation.options(Options(tags=(order_tag(invoiced.order_id),)))
    await tx.enqueue(tagged, invoiced.order_id)


@task(
    "storefront.mail_confirmation",
    retry=Retry(max_attempts=6, never=(NotFoundError, ConflictError)),
    timeout_seconds=60,
)
async def mail_confirmation(run: Run, order_id: UUID) -> str:
    """Mail the confirmation of an order to its customer and return the mail's Message-ID."""
    async with run.read() as connection:
        order = await find(connection, order_id)
        invoice = await find_invoice(connection, order_id)
        sent: str | None = (await connection.execute(_FIND, {"order_id": order_id})).scalar_one_or_none()
    if sent is not None:
        return sent
    if invoice is None:
        message = f"the order {order_id} has no invoice to be mailed"
        raise ConflictError(message)
    message_id = await run.get(Mailer).send(_mail_of(order, invoice))
    tx = await run.begin()
    if (await tx.connection.execute(_INSERT, {"order_id": order_id, "message_id": message_id})).rowcount == 1:
        await tx.publish(ConfirmationMailed(order_id=order_id, actor=mail_confirmation.name, message_id=message_id))
    return message_id


def _mail_of(order: Order, invoice: IssuedInvoice) -> Mail:
    lines = "\n".join(f"  {item.quantity:,} x {item.sku}" for item in order.items)
    total = f"{order.currency} {format_money(order.total_cents, order.currency)}"
    text_of_mail = (
        f"Thank you for your order. It is confirmed.\n\n{lines}\n\nTotal: {total}\nOrder: {order.id}\n"
        f"Invoice: {invoice.number}, attached as PDF\n\n{SELLER.name}\n{SELLER.email}\n"
    )
    return Mail(
        recipient=order.customer_email,
        subject=f"Your order is confirmed: invoice {invoice.number}",
        text=text_of_mail,
        key=f"confirmation.{order.id}",
        written_at=invoice.issued_at,
        attachments=(Attachment(f"{invoice.number}.pdf", invoice.pdf, "pdf"),),
    )
