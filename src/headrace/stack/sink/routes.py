"""What the sink answers over HTTP.

Owns the routes: the page for people, the listings for programs, and the two places that take something,
`/warehouse/orders` and `/v1/traces`. What arrived is hostile until shown otherwise: attachments are only ever
downloaded, never displayed. Never answer a refused call with anything but 4xx.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID

from litestar import Litestar, MediaType, Request, Response, get, post, put
from litestar.di import Provide
from litestar.exceptions import NotFoundException
from litestar.params import Dependency

from headrace.errors import InvalidInputError
from headrace.stack.sink.mail import Mail, Mailbox
from headrace.stack.sink.page import render_page, render_trace
from headrace.stack.sink.traces import Span, Summary, Traces
from headrace.stack.sink.warehouse import Pace, Receipt, Warehouse

_SHOWN = 50
_LARGEST_BODY = 64_000_000
_PAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"}
_PROTOBUF = "application/x-protobuf"

Mails = Annotated[Mailbox, Dependency(skip_validation=True)]
Orders = Annotated[Warehouse, Dependency(skip_validation=True)]
Kept = Annotated[Traces, Dependency(skip_validation=True)]
AnyRequest = Request[Any, Any, Any]  # the sink has neither users nor state


def create_app(mailbox: Mailbox, warehouse: Warehouse, traces: Traces) -> Litestar:
    """Return the application."""
    takers = (take_order, set_pace, take_traces)
    listings = (list_mails, list_receipts, list_traces, read_trace)
    return Litestar(
        route_handlers=[page, trace_page, raw_mail, attachment, *takers, *listings],
        dependencies={"mailbox": _always(mailbox), "warehouse": _always(warehouse), "traces": _always(traces)},
        exception_handlers={InvalidInputError: _refuse},
        openapi_config=None,
        logging_config=None,  # the process has configured its own
        request_max_body_size=_LARGEST_BODY,
    )


@get("/", media_type=MediaType.HTML, sync_to_thread=False)
def page(mailbox: Mails, warehouse: Orders, traces: Kept) -> Response[str]:
    """Show what arrived lately."""
    content = render_page(mailbox.all()[:_SHOWN], warehouse.all()[:_SHOWN], traces.summaries(_SHOWN))
    return Response(content, headers=_PAGE_HEADERS)


@get("/traces/{trace_id:str}/page", media_type=MediaType.HTML, sync_to_thread=False)
def trace_page(trace_id: str, traces: Kept) -> Response[str]:
    """Show a trace as a waterfall."""
    return Response(render_trace(trace_id, _spans_of(traces, trace_id)), headers=_PAGE_HEADERS)


@get("/mails", sync_to_thread=False)
def list_mails(mailbox: Mails) -> list[Mail]:
    """List the mails, newest first."""
    return mailbox.all()


@get("/mails/{identity:uuid}/raw", sync_to_thread=False)
def raw_mail(identity: UUID, mailbox: Mails) -> Response[bytes]:
    """Give a mail as it was received."""
    raw = mailbox.raw(identity)
    if raw is None:
        raise NotFoundException
    return _download(raw, name=f"{identity}.eml", content_type="message/rfc822")


@get("/mails/{identity:uuid}/attachments/{number:int}", sync_to_thread=False)
def attachment(identity: UUID, number: int, mailbox: Mails) -> Response[bytes]:
    """Give an attachment to be saved."""
    found = mailbox.attachment(identity, number)
    if found is None:
        raise NotFoundException
    described, content = found
    return _download(content, name=described.name, content_type=described.content_type)


@post("/warehouse/orders", status_code=200)
async def take_order(request: AnyRequest, warehouse: Orders) -> Receipt:
    """Take a signed order; a repeat of its key gets the first receipt."""
    receipt = warehouse.take(dict(request.headers), await request.body())
    await asyncio.sleep(warehouse.pace.seconds)
    return receipt


@put("/warehouse/pace", sync_to_thread=False)
def set_pace(data: Pace, warehouse: Orders) -> Pace:
    """Let the warehouse take its time before each answer."""
    warehouse.pace = data
    return data


@get("/warehouse/receipts", sync_to_thread=False)
def list_receipts(warehouse: Orders) -> list[Receipt]:
    """List the receipts, newest first."""
    return warehouse.all()


@post("/v1/traces", status_code=200)
async def take_traces(request: AnyRequest, traces: Kept) -> Response[bytes]:
    """Take an OTLP export; the empty answer is an ExportTraceServiceResponse without complaints."""
    traces.take(await request.body(), request.headers.get("content-encoding", ""))
    return Response(b"", media_type=_PROTOBUF)


@get("/traces", sync_to_thread=False)
def list_traces(traces: Kept) -> list[Summary]:
    """List the traces that changed last."""
    return traces.summaries(_SHOWN)


@get("/traces/{trace_id:str}", sync_to_thread=False)
def read_trace(trace_id: str, traces: Kept) -> dict[str, str | list[Span]]:
    """Give the spans of a trace, by their start."""
    return {"trace_id": trace_id, "spans": _spans_of(traces, trace_id)}


def _spans_of(traces: Traces, trace_id: str) -> list[Span]:
    spans = traces.trace(trace_id)
    if not spans:
        raise NotFoundException
    return spans


def _download(content: bytes, *, name: str, content_type: str) -> Response[bytes]:
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(content, media_type=content_type, headers=headers)


def _refuse(_request: AnyRequest, error: InvalidInputError) -> Response[dict[str, str]]:
    return Response({"detail": str(error)}, status_code=400)


def _always(value: object) -> Provide:
    return Provide(lambda: value, sync_to_thread=False)
