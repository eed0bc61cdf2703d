"""The storefront's routes.

Owns the mapping between HTTP and the storefront: what is read from a request, which status and headers answer it. Each
POST does its work in one transaction and gives the same answer again under one `Idempotency-Key`.
Never decide anything about orders here.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from itertools import dropwhile
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Controller, Request, Response, get, post
from litestar.exceptions import NotFoundException
from litestar.params import FromPath, JSONBody, QueryParameter

from headrace.api.idempotency import Answer, once
from headrace.api.paging import DEFAULT_LIMIT, Cursor, Limit, Page, page_of
from headrace.cursors import id_of, place_of
from headrace.database.record import Record
from headrace.errors import FieldError, InvalidInputError
from headrace.events.queries import history_of
from headrace.telemetry.propagation import trace_id_now
from headrace.transaction import Transaction
from storefront.drafts import OrderDraft, checked
from storefront.fulfilment import fulfilment_of
from storefront.history import History, OrderState, fold, in_order, read, shown
from storefront.orders import Order, confirm, find, place
from storefront.reactions import analytics, audit
from storefront.reactions.analytics import SalesOfDay
from storefront.reactions.audit import AuditEntry
from storefront.reactions.invoice import find_invoice

_TRY_AGAIN = {"Retry-After": "1"}

AnyRequest = Request[Any, Any, Any]


class Confirmation(msgspec.Struct, frozen=True):
    """The answer to a confirmation: the order, and the trace in which everything else follows."""

    order: OrderState
    trace_id: str


class OrdersController(Controller):
    """Orders: place, confirm, look at what followed."""

    path = "/v1/orders"
    tags = ("storefront",)

    @post("/", status_code=201, summary="Place an order")
    async def place_order(self, request: AnyRequest, data: JSONBody[OrderDraft]) -> Response[OrderState]:
        """Place an order as a draft; it becomes binding when it is confirmed."""
        draft = checked(data)

        async def work(tx: Transaction) -> Answer:
            order = _as_placed(await place(tx, draft, actor=request.auth.name))
            return Answer(201, order, {"Location": f"/v1/orders/{order.id}"})

        return await once(request, work)

    @get("/{order_id:uuid}", summary="Show an order")
    async def show_order(self, request: AnyRequest, order_id: FromPath[UUID]) -> OrderState:
        """Show an order and how far what follows from it is."""
        record = _record_of(request)
        async with record.engine.connect() as connection:
            order = await find(connection, order_id)
        fulfilment = await fulfilment_of(record, order_id)
        return msgspec.structs.replace(_as_placed(order), fulfilment=fulfilment)

    @post("/{order_id:uuid}/confirm", status_code=202, summary="Confirm an order")
    async def confirm_order(self, request: AnyRequest, order_id: FromPath[UUID]) -> Response[Confirmation]:
        """Make an order binding; invoice, mail, shipment and the rest follow in the named trace."""

        async def work(tx: Transaction) -> Answer:
            order = _as_placed(await confirm(tx, order_id, actor=request.auth.name))
            return Answer(202, Confirmation(order, trace_id_now()))

        return await once(request, work)

    @get("/{order_id:uuid}/invoice", media_type="application/pdf", summary="Fetch the invoice")
    async def fetch_invoice(self, request: AnyRequest, order_id: FromPath[UUID]) -> Response[bytes]:
        """Fetch the invoice as PDF; 404 with `Retry-After` until it is ready."""
        async with _record_of(request).engine.connect() as connection:
            order = await find(connection, order_id)
            invoice = await find_invoice(connection, order_id)
        if invoice is None:
            message = f"the order is {order.status} and has no invoice yet"
            raise NotFoundException(message, headers=_TRY_AGAIN)
        headers = {"Content-Disposition": f'inline; filename="{invoice.number}.pdf"'}
        return Response(invoice.pdf, media_type="application/pdf", headers=headers)

    @get("/{order_id:uuid}/history", summary="Show an order's history")
    async def show_history(
        self,
        request: AnyRequest,
        order_id: FromPath[UUID],
        at: Annotated[
            datetime | None, QueryParameter(description="as of this time, RFC 3339; now where absent")
        ] = None,
        limit: Limit = DEFAULT_LIMIT,
        cursor: Cursor = None,
    ) -> History:
        """Show what happened to an order up to a time, oldest first, and the state folded from it."""
        until = None if at is None else _in_utc(at, "at")
        async with _record_of(request).engine.connect() as connection:
            await find(connection, order_id)
            events = in_order(await history_of(connection, str(order_id), until=until))
        after = id_of(cursor)
        acts = (read(event) for event in events)
        rest = list(dropwhile(lambda event: event.id != after, events))[1:] if after else events
        page = page_of(rest[: limit + 1], limit, lambda event: str(event.id))
        return History(
            order_id=order_id,
            at=until,
            events=[shown(event) for event in page.items],
            next_cursor=page.next_cursor,
            state=fold(act for act in acts if act and act.order_id == order_id),
        )


FirstDay = Annotated[date | None, QueryParameter(name="from", description="the first day, UTC")]
LastDay = Annotated[date | None, QueryParameter(name="to", description="the last day, UTC, included")]


class AnalyticsController(Controller):
    """What the projections say."""

    path = "/v1/analytics"
    tags = ("storefront",)

    @get("/orders", summary="Orders and revenue per day and currency")
    async def list_sales(
        self,
        request: AnyRequest,
        first: FirstDay = None,
        last: LastDay = None,
        limit: Limit = DEFAULT_LIMIT,
        cursor: Cursor = None,
    ) -> Page[SalesOfDay]:
        """List how many orders were confirmed per day and currency, and what they amount to, newest first."""
        if first and last and first > last:
            wrong = FieldError("from", "this is after the last day, `to`")
            message = f"from: {wrong.message}"
            raise InvalidInputError(message, (wrong,))
        async with _record_of(request).engine.connect() as connection:
            found = await analytics.list_sales(
                connection, first=first or date.min, last=last or date.max, before=_sales_place(cursor), limit=limit + 1
            )
        return page_of(found, limit, lambda sold: f"{sold.day}/{sold.currency}")


class AuditController(Controller):
    """Who did what."""

    path = "/v1/audit"
    tags = ("storefront",)

    @get("/", summary="The audit trail")
    async def list_acts(
        self,
        request: AnyRequest,
        subject: Annotated[str | None, QueryParameter(description="an order's id; all where it is absent")] = None,
        limit: Limit = DEFAULT_LIMIT,
        cursor: Cursor = None,
    ) -> Page[AuditEntry]:
        """List who did what to which order, newest first."""
        before = id_of(cursor) or audit.AT_THE_TOP
        async with _record_of(request).engine.connect() as connection:
            found = await audit.list_acts(connection, subject=subject, before=before, limit=limit + 1)
        return page_of(found, limit, lambda act: str(act.event_id))


CONTROLLERS = (OrdersController, AnalyticsController, AuditController)


def _record_of(request: AnyRequest) -> Record:
    record: Record = request.app.state.door.record
    return record


def _as_placed(order: Order) -> OrderState:
    """Show an order of which nothing has followed yet."""
    return OrderState(**msgspec.structs.asdict(order))


def _in_utc(moment: datetime, field: str) -> datetime:
    """Return a time in UTC."""
    if moment.tzinfo is None:
        wrong = FieldError(field, "this must be RFC 3339 with a time zone, such as 2026-01-31T12:00:00Z")
        message = f"{field}: {wrong.message}"
        raise InvalidInputError(message, (wrong,))
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        wrong = FieldError(field, "this time does not exist in UTC")
        message = f"{field}: {wrong.message}"
        raise InvalidInputError(message, (wrong,)) from error


def _sales_place(cursor: str | None) -> analytics.Place:
    named = place_of(cursor)
    if named is None:
        return analytics.AT_THE_TOP
    day, _, currency = named.partition("/")
    try:
        return analytics.Place(date.fromisoformat(day), currency)
    except ValueError as error:
        wrong = FieldError("cursor", "this is no cursor of ours: give back `next_cursor` as it came")
        message = "the cursor cannot be read"
        raise InvalidInputError(message, (wrong,)) from error
