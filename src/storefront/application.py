"""What the storefront declares: its events, its reactions to them, its tasks, its clients and its routes.

Owns the one value that `HEADRACE_APPLICATIONS` names. Which reaction listens to which event is decided in the
reactions: the code that places and confirms orders imports none of them.
"""

from __future__ import annotations

from headrace.application import Application
from storefront.events import EVENTS
from storefront.mail import Mailer, open_mailer
from storefront.printer import Printer, open_printer
from storefront.reactions.analytics import count_confirmed_orders
from storefront.reactions.audit import record_act
from storefront.reactions.confirmation_mail import mail_confirmation, mail_invoiced_order
from storefront.reactions.invoice import invoice_confirmed_order, render_invoice
from storefront.reactions.shipment import request_shipment, ship_confirmed_order
from storefront.warehouse import Warehouse, open_warehouse

application = Application(
    name="storefront",
    tasks=(render_invoice, mail_confirmation, request_shipment),
    events=EVENTS,
    subscriptions=(
        invoice_confirmed_order,
        mail_invoiced_order,
        ship_confirmed_order,
        count_confirmed_orders,
        record_act,
    ),
    providers={Printer: open_printer, Mailer: open_mailer, Warehouse: open_warehouse},
    controllers="storefront.controllers:CONTROLLERS",
    migrations="storefront.migrations",
)
