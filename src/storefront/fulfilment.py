"""How far an order is that was confirmed: what followed, what is on its way, what has failed.

Owns the derivation. Nothing is stored: an effect is `ready` when it is on record, `failed` when whatever would bring it
about has stopped (a dead, cancelled or expired job, or a dead delivery), and `pending` otherwise, also before the order
is confirmed. A job that is retried is no longer stopped, so `POST /v1/jobs/{id}/retry` mends this by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from uuid import UUID

import msgspec
from sqlalchemy import text

from headrace.database.record import Record
from headrace.database.states import JobState
from headrace.jobs.queries import Job, JobFilter, list_jobs
from storefront.orders import order_tag
from storefront.reactions.confirmation_mail import mail_confirmation, mail_invoiced_order
from storefront.reactions.invoice import invoice_confirmed_order, render_invoice
from storefront.reactions.shipment import request_shipment, ship_confirmed_order

_ON_RECORD = text("""
    SELECT EXISTS (SELECT FROM storefront_invoices WHERE order_id = :order_id) AS invoice,
           EXISTS (SELECT FROM storefront_confirmation_mails WHERE order_id = :order_id) AS confirmation_mail,
           EXISTS (SELECT FROM storefront_shipments WHERE order_id = :order_id) AS warehouse
""")


class _Reaction(msgspec.Struct, frozen=True):
    """What brings an effect about: a subscription, and the task that it enqueues."""

    subscription: str
    task: str

    def among(self, jobs: Sequence[Job]) -> list[JobState]:
        """Return the states of those jobs that are part of this reaction."""
        delivery = f"subscription:{self.subscription}"
        return [job.state for job in jobs if job.task == self.task or delivery in job.tags]


_INVOICE = _Reaction(invoice_confirmed_order.name, render_invoice.name)
_MAIL = _Reaction(mail_invoiced_order.name, mail_confirmation.name)
_WAREHOUSE = _Reaction(ship_confirmed_order.name, request_shipment.name)
_STOPPED = {JobState.DEAD, JobState.CANCELLED, JobState.EXPIRED}
_MOST_JOBS = 100


class Progress(StrEnum):
    """How far one effect is."""

    PENDING = "pending"
    READY = "ready"
    FAILED = "failed"


class Fulfilment(msgspec.Struct, frozen=True, kw_only=True):
    """How far every effect of a confirmed order is."""

    invoice: Progress = Progress.PENDING
    confirmation_mail: Progress = Progress.PENDING
    warehouse: Progress = Progress.PENDING


NOTHING_YET = Fulfilment()


async def fulfilment_of(record: Record, order_id: UUID) -> Fulfilment:
    """Return how far the effects of an order are."""
    async with record.engine.connect() as connection:
        done = (await connection.execute(_ON_RECORD, {"order_id": order_id})).one()
    if all(done):
        return Fulfilment(invoice=Progress.READY, confirmation_mail=Progress.READY, warehouse=Progress.READY)
    jobs = await _jobs_for(record, order_id)
    invoice, mail, warehouse = _INVOICE.among(jobs), _MAIL.among(jobs), _WAREHOUSE.among(jobs)
    return Fulfilment(
        invoice=derive(invoice, on_record=done.invoice),
        confirmation_mail=derive(mail, on_record=done.confirmation_mail),
        warehouse=derive(warehouse, on_record=done.warehouse),
    )


async def _jobs_for(record: Record, order_id: UUID) -> list[Job]:
    """Return the jobs that work for an order, and the failed deliveries of its events, which are jobs too."""
    tags = (order_tag(order_id), f"subject:{order_id}")
    return [job for tag in tags for job in await list_jobs(record, JobFilter(tag=tag), limit=_MOST_JOBS)]


def derive(jobs: Sequence[JobState], *, on_record: bool) -> Progress:
    """Return how far an effect is, from whether it is on record and the states of the jobs that bring it about."""
    if on_record:
        return Progress.READY
    unfinished = [job for job in jobs if job is not JobState.SUCCEEDED]
    return Progress.FAILED if unfinished and _STOPPED.issuperset(unfinished) else Progress.PENDING
