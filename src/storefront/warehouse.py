"""The warehouse: told by a signed call that an order is to be shipped.

Owns the call: POST of JSON to `HEADRACE_WAREHOUSE_URL`, signed as Standard Webhooks 1.0, with an `Idempotency-Key` that
is the same at every attempt, so that the warehouse ships once however often it is told. 2xx is a receipt; 408, 429, 5xx
and silence raise `WarehouseAwayError` and are worth another attempt; any other answer, 410 and redirects among them,
raises `WarehouseRefusedError` and is not.
The whole call ends within 15 seconds and reads at most 64 KiB of answer: the other side may be hostile or broken.
Never follow a redirect, and never hand on our trace context to somebody else's service.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from http import HTTPStatus

import httpx
import msgspec

from headrace.clock import now
from headrace.jobs.retry import PermanentError
from headrace.settings import Settings
from headrace.signing import sign
from headrace.telemetry import edges

_DEADLINE_SECONDS = 15
_LARGEST_ANSWER = 64 * 1024
_LONGEST_REFERENCE = 200
_WORTH_ANOTHER_ATTEMPT = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}


class WarehouseAwayError(Exception):
    """The warehouse did not take the order this time; another attempt can succeed."""


class WarehouseRefusedError(PermanentError):
    """The warehouse will never take this order."""


class Parcel(msgspec.Struct, frozen=True):
    """One article to be shipped."""

    sku: str
    quantity: int


class Shipment(msgspec.Struct, frozen=True, kw_only=True):
    """What the warehouse is asked to ship: the body of the call."""

    order_id: str
    customer_email: str
    confirmed_at: datetime
    items: tuple[Parcel, ...]


class Receipt(msgspec.Struct, frozen=True):
    """The warehouse's answer: its HTTP status, and what it calls the shipment, "" where it did not say."""

    status: int
    reference: str


class _Answer(msgspec.Struct):
    reference: str | int | None = None
    receipt: str | int | None = None
    id: str | int | None = None


class Warehouse:
    """Calls the warehouse."""

    def __init__(self, client: httpx.AsyncClient, *, url: str, secret: str | None) -> None:
        """Call `url` through `client`, signing with `secret` (`whsec_…`)."""
        self._client = client
        self._url = url
        self._secret = secret

    async def request_shipment(self, shipment: Shipment, *, key: str, attempt: int = 1) -> Receipt:
        """Ask for a shipment; `key` is the same at every attempt.

        Raises:
            WarehouseAwayError: it was not taken this time.
            WarehouseRefusedError: it never will be.

        """
        if self._secret is None:
            message = "HEADRACE_WAREHOUSE_SECRET is not set: agree on a secret with the warehouse, then retry this job"
            raise WarehouseRefusedError(message)
        body = msgspec.json.encode(shipment)
        signature = sign(self._secret, message_id=key, timestamp=now(), body=body)
        headers = {**signature, "content-type": "application/json", "idempotency-key": key}
        with edges.call("POST", self._url, resend_count=attempt - 1) as span:
            try:
                async with asyncio.timeout(_DEADLINE_SECONDS):
                    status, answer = await self._post(body, headers)
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
                span.failed_as(type(error).__qualname__)
                message = f"the warehouse did not answer: {str(error) or type(error).__qualname__}"
                raise WarehouseAwayError(message) from error
            edges.answered_to_us(span, status)
        return _outcome(status, answer)

    async def _post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        answer = b""
        async with self._client.stream("POST", self._url, content=body, headers=dict(headers)) as response:
            async for part in response.aiter_bytes():
                answer += part
                if len(answer) >= _LARGEST_ANSWER:
                    break
        return response.status_code, answer[:_LARGEST_ANSWER]


@asynccontextmanager
async def open_warehouse(settings: Settings) -> AsyncIterator[Warehouse]:
    """Provide the warehouse client of a process, with connections that are kept between calls."""
    async with httpx.AsyncClient(
        timeout=httpx.Timeout(10, connect=5),
        follow_redirects=False,
        trust_env=False,
        headers={"user-agent": "headrace"},
    ) as client:
        yield Warehouse(client, url=settings.warehouse_url, secret=settings.warehouse_secret)


def _outcome(status: int, answer: bytes) -> Receipt:
    if HTTPStatus(200) <= status < HTTPStatus.MULTIPLE_CHOICES:
        return Receipt(status, _reference(answer))
    message = f"the warehouse answered {status}"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _WORTH_ANOTHER_ATTEMPT:
        raise WarehouseAwayError(message)
    raise WarehouseRefusedError(message)


def _reference(answer: bytes) -> str:
    """Return what the answer calls the shipment; any 2xx is a receipt, whatever its body."""
    try:
        named = msgspec.json.decode(answer, type=_Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
    reference = next((value for value in (named.reference, named.receipt, named.id) if value is not None), "")
    return str(reference).replace("\x00", "")[:_LONGEST_REFERENCE]
