"""The demo as a client: it knows the HTTP contract of Headrace and the pages of its sink, and nothing else.

Owns the calls and the frozen values that they answer with, each with the fields that the demo shows. A call that fails
raises with the answer's own words; nothing is tried twice, because a demo that hides a failure shows nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec

from headrace.errors import HeadraceError
from headrace.stack.sink.mail import Mail
from headrace.stack.sink.warehouse import Receipt
from headrace.stack.stackfile import Whereabouts

T = TypeVar("T")

_TIMEOUT_SECONDS = 15.0


class DemoError(HeadraceError):
    """Something that should have happened did not."""


class Fulfilment(msgspec.Struct, frozen=True):
    """How far the effects of an order are."""

    invoice: str
    confirmation_mail: str
    warehouse: str

    @property
    def is_complete(self) -> bool:
        """Whether every effect is there."""
        return {self.invoice, self.confirmation_mail, self.warehouse} == {"ready"}


class Order(msgspec.Struct, frozen=True):
    """An order, as far as the demo shows it."""

    id: str
    status: str
    customer_email: str
    currency: str
    total_cents: int
    fulfilment: Fulfilment


class Confirmation(msgspec.Struct, frozen=True):
    """The answer to a confirmation."""

    order: Order
    trace_id: str


class JobError(msgspec.Struct, frozen=True):
    """An attempt that did not succeed."""

    attempt: int
    at: datetime
    type: str
    message: str


class Job(msgspec.Struct, frozen=True):
    """A job, as far as the demo shows it."""

    id: str
    task: str
    state: str
    attempt: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    errors: list[JobError]


class Delivery(msgspec.Struct, frozen=True):
    """How far one subscription is with one event."""

    subscription: str
    state: str


class Event(msgspec.Struct, frozen=True):
    """An event with its place and deliveries; a listing names no deliveries."""

    id: str
    type: str
    lane: int = 0
    position: int | None = None
    deliveries: list[Delivery] = []


class Span(msgspec.Struct, frozen=True):
    """A span, as far as the demo shows it; `start` and `end` are seconds since 1970, a root's `parent_id` is ""."""

    name: str
    kind: str
    service: str
    span_id: str
    parent_id: str
    start: float
    end: float
    status: str


class _Page(msgspec.Struct, frozen=True):
    items: msgspec.Raw


class _Trace(msgspec.Struct, frozen=True):
    spans: list[Span]


class Client:
    """Talks to one stack."""

    def __init__(self, api: httpx.AsyncClient, sink: httpx.AsyncClient) -> None:
        self._api = api
        self._sink = sink

    async def place_order(self, body: object, *, key: str) -> Order:
        """Place an order; the same key places it once."""
        answer = await self._api.post("/v1/orders", json=body, headers={"Idempotency-Key": key})
        return _decode(answer, Order)

    async def confirm_order(self, order_id: str) -> Confirmation:
        """Confirm an order."""
        return _decode(await self._api.post(f"/v1/orders/{order_id}/confirm"), Confirmation)

    async def order(self, order_id: str) -> Order:
        """Return an order."""
        return _decode(await self._api.get(f"/v1/orders/{order_id}"), Order)

    async def jobs_of(self, order_id: str) -> list[Job]:
        """Return the jobs that work for an order, oldest first."""
        answer = await self._api.get("/v1/jobs", params={"tag": f"order:{order_id}"})
        return _decode_items(answer, Job)[::-1]

    async def events_of(self, order_id: str) -> list[Event]:
        """Return an order's events with their deliveries, oldest first."""
        answer = await self._api.get("/v1/events", params={"subject": order_id})
        events = _decode_items(answer, Event)[::-1]
        return [_decode(await self._api.get(f"/v1/events/{event.id}"), Event) for event in events]

    async def invoice_of(self, order_id: str) -> bytes:
        """Return the invoice as PDF."""
        return _checked(await self._api.get(f"/v1/orders/{order_id}/invoice")).content

    async def mails_to(self, recipient: str) -> list[Mail]:
        """Return the mails that the mail server took for a recipient."""
        mails = _decode(await self._sink.get("/mails"), list[Mail])
        return [mail for mail in mails if recipient in mail.to]

    async def receipts_of(self, order_id: str) -> list[Receipt]:
        """Return what the warehouse signed for."""
        receipts = _decode(await self._sink.get("/warehouse/receipts"), list[Receipt])
        return [receipt for receipt in receipts if receipt.order_id == order_id]

    async def spans_of(self, trace_id: str) -> list[Span]:
        """Return the spans of a trace that have arrived so far."""
        answer = await self._sink.get(f"/traces/{trace_id}")
        return [] if answer.status_code == httpx.codes.NOT_FOUND else _decode(answer, _Trace).spans

    async def slow_warehouse(self, seconds: float) -> None:
        """Let the warehouse take its time before each answer."""
        _checked(await self._sink.put("/warehouse/pace", json={"seconds": seconds}))


@asynccontextmanager
async def open_client(whereabouts: Whereabouts, key: str) -> AsyncIterator[Client]:
    """Open a client for a running stack."""
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        httpx.AsyncClient(base_url=whereabouts.api_url, headers=headers, timeout=_TIMEOUT_SECONDS) as api,
        httpx.AsyncClient(base_url=whereabouts.mail_url, timeout=_TIMEOUT_SECONDS) as sink,
    ):
        yield Client(api, sink)


def read_key(directory: Path) -> str:
    """Return the API key of the stack in a directory."""
    try:
        return (directory / "api.key").read_text()
    except FileNotFoundError as error:
        message = f"{directory} holds no api.key: set HEADRACE_API_KEY to the key that the stack was started with"
        raise DemoError(message) from error


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_error:
        message = f"{answer.request.method} {answer.request.url.path} answered {answer.status_code}: {answer.text}"
        raise DemoError(message)
    return answer


def _decode(answer: httpx.Response, kind: type[T]) -> T:
    return msgspec.json.decode(_checked(answer).content, type=kind)


def _decode_items(answer: httpx.Response, kind: type[T]) -> list[T]:
    items: list[T] = msgspec.json.decode(_decode(answer, _Page).items, type=list[kind])  # type: ignore[valid-type]  # a type made at run time
    return items
