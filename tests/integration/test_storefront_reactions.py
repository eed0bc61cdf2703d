"""What follows when an order is confirmed, and when the outside world is lost."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime
from uuid import UUID

import msgspec
import pytest
from pypdf import PdfReader
from sqlalchemy import text

from headrace.database.states import JobState
from headrace.jobs.queries import Job, JobFilter, list_jobs
from headrace.jobs.retry import PermanentError
from headrace.settings import Settings
from headrace.stack.ports import free_port
from headrace.testing.inline import Inline, inline
from headrace.testing.stores import Stores, open_stores
from storefront.application import application
from storefront.drafts import ItemDraft, OrderDraft
from storefront.fulfilment import NOTHING_YET, Fulfilment, Progress, fulfilment_of
from storefront.orders import Order, confirm, order_tag, place
from storefront.reactions.analytics import AT_THE_TOP as TOP_OF_SALES
from storefront.reactions.analytics import SalesOfDay, list_sales
from storefront.reactions.audit import AT_THE_TOP as TOP_OF_AUDIT
from storefront.reactions.audit import AuditEntry, list_acts
from storefront.reactions.confirmation_mail import mail_confirmation
from storefront.reactions.invoice import find_invoice, invoice_confirmed_order, render_invoice
from storefront.reactions.shipment import request_shipment
from tests.integration.storefront_world import SECRET, Depot, Sink, listening, running_depot, running_sink
from tests.servers import PostgresServer

READY = Progress.READY
ALL_READY = Fulfilment(invoice=READY, confirmation_mail=READY, warehouse=READY)
RETRY = text("UPDATE jobs SET state = 'pending', max_attempts = attempt + 1 WHERE id = :id AND state = 'dead'")


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A running mail server."""
    with running_sink() as server:
        yield server


@pytest.fixture
def depot() -> Iterator[Depot]:
    """A running warehouse."""
    with running_depot() as server:
        yield server


@pytest.fixture(scope="module")
def stores(postgres_server: PostgresServer) -> Iterator[Stores]:
    """The run's own PostgreSQL."""
    with open_stores(database_url=postgres_server.url_of("postgres")) as opened:
        yield opened


@pytest.fixture
def settings(sink: Sink, depot: Depot) -> Settings:
    """Settings that name both."""
    return Settings(
        smtp_url=f"smtp://127.0.0.1:{sink.port}",
        warehouse_url=f"http://127.0.0.1:{depot.server_port}/orders",
        warehouse_secret=SECRET,
    )


@pytest.fixture
async def road(stores: Stores, settings: Settings) -> AsyncIterator[Inline]:
    """The storefront, with nothing on record."""
    async with inline(application, stores, settings=settings) as opened:
        yield opened


async def ordered(road: Inline, *, cents: int = 1250, currency: str = "EUR") -> Order:
    """Place and confirm an order of two articles."""
    draft = OrderDraft("ada@example.com", currency, (ItemDraft("MUG", 2, cents),))
    async with road.transaction() as tx:
        order = await place(tx, draft, actor="ada")
    async with road.transaction() as tx:
        return await confirm(tx, order.id, actor="ada")


async def jobs_of(road: Inline, order_id: UUID) -> dict[str, Job]:
    """Return the jobs of an order by their task."""
    jobs = await list_jobs(road.record, JobFilter(tag=order_tag(order_id)), limit=50)
    return {job.task: job for job in jobs}


async def sales_of(road: Inline) -> list[SalesOfDay]:
    """Return the sales of all days."""
    async with road.record.engine.connect() as connection:
        return await list_sales(connection, first=date.min, last=date.max, before=TOP_OF_SALES, limit=50)


async def acts_of(road: Inline) -> list[AuditEntry]:
    """Return what the audit says, newest first: one entry for each event."""
    async with road.record.engine.connect() as connection:
        return await list_acts(connection, subject=None, before=TOP_OF_AUDIT, limit=50)


async def test_everything_follows_when_an_order_is_confirmed(road: Inline, sink: Sink, depot: Depot) -> None:
    """One invoice, one mail with it, one call; and the order says so."""
    order = await ordered(road)
    before = await fulfilment_of(road.record, order.id)

    await road.finish_all()

    async with road.record.engine.connect() as connection:
        invoice = await find_invoice(connection, order.id)
    assert (before, await fulfilment_of(road.record, order.id)) == (NOTHING_YET, ALL_READY)
    assert invoice is not None
    ((mail,), (call,)) = (sink.mails, depot.calls)
    (attached,) = mail.iter_attachments()
    assert attached.get_content() == invoice.pdf
    assert invoice.number in PdfReader(io.BytesIO(invoice.pdf)).pages[0].extract_text()
    assert (mail["To"], mail["Message-ID"]) == ("ada@example.com", f"<confirmation.{order.id}@headrace.example>")
    assert call[0]["idempotency-key"] == str((await jobs_of(road, order.id))[request_shipment.name].id)


async def test_effects_happen_once_when_everything_is_delivered_again(road: Inline, sink: Sink, depot: Depot) -> None:
    """A second delivery of each event, and a second run of each task, add nothing."""
    order = await ordered(road)
    await road.finish_all()
    acts = await acts_of(road)

    await road.redeliver()
    async with road.transaction() as tx:
        for task in (render_invoice, mail_confirmation, request_shipment):
            await tx.enqueue(task, order.id)
    await road.finish_all()

    assert (len(sink.mails), len(depot.calls)) == (1, 1)
    assert len(await acts_of(road)) == len(acts) == 5


async def test_mail_fails_and_is_mended_when_the_mail_server_is_lost(
    stores: Stores, settings: Settings, sink: Sink
) -> None:
    """Retries, then dead, visible in the order; the retry of the dead job mends it by itself."""
    port = free_port()
    away = msgspec.structs.replace(settings, smtp_url=f"smtp://127.0.0.1:{port}")
    async with inline(application, stores, settings=away) as road:
        order = await ordered(road)
        await road.finish_all()
        failed = await fulfilment_of(road.record, order.id)
        dead = (await jobs_of(road, order.id))[mail_confirmation.name]
        async with road.record.engine.begin() as connection:
            await connection.execute(RETRY, {"id": dead.id})
        retried = await fulfilment_of(road.record, order.id)
        with listening(sink, port):
            await road.finish_all()
        mended = await fulfilment_of(road.record, order.id)

    assert failed == Fulfilment(invoice=READY, confirmation_mail=Progress.FAILED, warehouse=READY)
    assert (dead.state, [error.type.rpartition(".")[2] for error in dead.errors]) == (
        JobState.DEAD,
        ["MailDelayedError"] * mail_confirmation.policy.retry.max_attempts,
    )
    assert retried == Fulfilment(invoice=READY, confirmation_mail=Progress.PENDING, warehouse=READY)
    assert mended == ALL_READY
    assert len(sink.mails) == 1


@pytest.mark.parametrize(("status", "attempts"), [(500, 6), (410, 1), (307, 1)])
async def test_shipment_fails_when_the_warehouse_does_not_take_it(
    road: Inline, depot: Depot, status: int, attempts: int
) -> None:
    """Trouble is tried again with one key, a refusal is not; either way the order says so and the rest is done."""
    depot.status = status
    order = await ordered(road)

    await road.finish_all()

    assert await fulfilment_of(road.record, order.id) == Fulfilment(
        invoice=READY, confirmation_mail=READY, warehouse=Progress.FAILED
    )
    assert len(depot.calls) == attempts
    assert len({headers["idempotency-key"] for headers, _ in depot.calls}) == 1


async def test_effect_has_failed_when_its_delivery_is_dead(road: Inline) -> None:
    """A reaction that never came to enqueue its job is visible in the order too."""
    road.fail(invoice_confirmed_order, PermanentError("broken"))
    order = await ordered(road)

    await road.finish_all()

    assert await fulfilment_of(road.record, order.id) == Fulfilment(invoice=Progress.FAILED, warehouse=READY)


async def test_sales_are_those_of_the_orders_when_many_are_confirmed(road: Inline) -> None:
    """The projection says what a recomputation from the orders says."""
    for cents in range(10):
        await ordered(road, cents=cents)
        await ordered(road, cents=cents, currency="JPY")

    await road.drain()

    recomputed = text("""
        SELECT CAST(confirmed_at AT TIME ZONE 'UTC' AS date), count(*), CAST(sum(total_cents) AS bigint), currency
        FROM storefront_orders GROUP BY 1, 4 ORDER BY 1 DESC, 4 DESC
    """)
    async with road.record.engine.connect() as connection:
        expected = [SalesOfDay(*row) for row in await connection.execute(recomputed)]
    assert await sales_of(road) == expected
    assert [(sold.currency, sold.orders, sold.revenue_cents) for sold in expected][:2] == [
        ("JPY", 10, 90),
        ("EUR", 10, 90),
    ]


async def test_pages_of_sales_meet_when_they_are_read_one_by_one(road: Inline) -> None:
    """Nothing is left out or shown twice between pages."""
    add = text("INSERT INTO storefront_sales SELECT :day, unnest(ARRAY['EUR', 'JPY', 'USD']), 1, 1e30")
    async with road.record.engine.begin() as connection:
        for day in (date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 3)):
            await connection.execute(add, {"day": day})

    whole, pages = await sales_of(road), []
    place = TOP_OF_SALES
    async with road.record.engine.connect() as connection:
        while page := await list_sales(connection, first=date.min, last=date.max, before=place, limit=2):
            pages += page
            place = page[-1].place

    assert pages == whole
    assert len(whole) == 9
    assert whole[0] == SalesOfDay(date(2026, 1, 3), 1, 2**63 - 1, "USD")


async def test_audit_names_who_did_what_when_things_have_followed(road: Inline) -> None:
    """Each event has one entry, with its actor and its trace, newest first."""
    order = await ordered(road)
    await ordered(road)

    await road.finish_all()

    async with road.record.engine.connect() as connection:
        acts = await list_acts(connection, subject=str(order.id), before=TOP_OF_AUDIT, limit=50)
        everything = await list_acts(connection, subject=None, before=TOP_OF_AUDIT, limit=50)
        rest = await list_acts(connection, subject=None, before=everything[3].event_id, limit=50)
    assert sorted((act.action, act.actor) for act in acts) == [
        ("orders.order.confirmation_mailed", "storefront.mail_confirmation"),
        ("orders.order.confirmed", "ada"),
        ("orders.order.created", "ada"),
        ("orders.order.invoiced", "storefront.render_invoice"),
        ("orders.order.shipment_requested", "storefront.request_shipment"),
    ]
    assert (len(everything), everything[4:]) == (10, rest)
    assert all(len(act.trace_id) == 32 and act.at <= datetime.now(UTC) for act in everything)
