"""The call to the warehouse, answered by a real server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import msgspec
import pytest
from standardwebhooks import Webhook

from headrace.settings import Settings
from headrace.stack.ports import free_port
from storefront.warehouse import (
    Parcel,
    Receipt,
    Shipment,
    Warehouse,
    WarehouseAwayError,
    WarehouseRefusedError,
    open_warehouse,
)
from tests.integration.storefront_world import SECRET, Depot, running_depot

SHIPMENT = Shipment(
    order_id="01939c2e-7f00-7000-8000-0123456789ab",
    customer_email="ada@example.com",
    confirmed_at=datetime(2026, 11, 20, 12, tzinfo=UTC),
    items=(Parcel("MUG", 2),),
)


@pytest.fixture
def depot() -> Iterator[Depot]:
    """A running warehouse."""
    with running_depot() as server:
        yield server


def settings_of(port: int) -> Settings:
    """Return the settings that name a warehouse on this port."""
    return Settings(warehouse_url=f"http://127.0.0.1:{port}/orders", warehouse_secret=SECRET)


async def call(port: int, key: str = "job-1") -> Receipt:
    """Ask the warehouse on this port for a shipment."""
    async with open_warehouse(settings_of(port)) as warehouse:
        return await warehouse.request_shipment(SHIPMENT, key=key)


async def test_call_is_signed_and_whole_when_the_warehouse_takes_it(depot: Depot) -> None:
    """The reference implementation of Standard Webhooks accepts it, and the body says what to ship."""
    receipt = await call(depot.server_port)

    ((headers, body),) = depot.calls
    Webhook(SECRET).verify(body, headers)
    assert msgspec.json.decode(body, type=Shipment) == SHIPMENT
    assert headers["idempotency-key"] == headers["webhook-id"] == "job-1"
    assert headers["content-type"] == "application/json"
    assert "traceparent" not in headers
    assert receipt == Receipt(200, "W-1")


@pytest.mark.parametrize(
    ("status", "answer", "reference"),
    [
        (202, b'{"receipt": 17}', "17"),
        (204, b"", ""),
        (200, b"thanks", ""),
        (201, b'{"id": "' + b"x" * 999 + b'"}', "x" * 200),
        (200, b'"\xff"', ""),
        (200, b"9" * 200_000, ""),
    ],
)
async def test_receipt_is_given_when_the_answer_is_any_2xx(
    depot: Depot, status: int, answer: bytes, reference: str
) -> None:
    """Whatever the body is, the warehouse has taken the order."""
    depot.status, depot.answer = status, answer

    receipt = await call(depot.server_port)

    assert receipt == Receipt(status, reference)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_call_is_worth_another_attempt_when_the_warehouse_has_trouble(depot: Depot, status: int) -> None:
    """Passing faults are not final."""
    depot.status = status

    with pytest.raises(WarehouseAwayError, match=str(status)):
        await call(depot.server_port)


@pytest.mark.parametrize("status", [400, 401, 404, 409, 410, 422])
async def test_call_is_final_when_the_warehouse_refuses(depot: Depot, status: int) -> None:
    """A refusal will be the same next time."""
    depot.status = status

    with pytest.raises(WarehouseRefusedError, match=str(status)):
        await call(depot.server_port)


async def test_redirect_is_not_followed_when_the_warehouse_sends_one(depot: Depot) -> None:
    """Nobody can lead the signed call elsewhere."""
    depot.status, depot.location = 307, f"http://127.0.0.1:{depot.server_port}/elsewhere"

    with pytest.raises(WarehouseRefusedError, match="307"):
        await call(depot.server_port)

    assert len(depot.calls) == 1


async def test_nothing_is_announced_when_there_is_no_secret(depot: Depot) -> None:
    """An unsigned call would teach the warehouse to trust anybody; the error says what to set."""
    settings = Settings(warehouse_url=f"http://127.0.0.1:{depot.server_port}/orders")

    async with open_warehouse(settings) as warehouse:
        with pytest.raises(WarehouseRefusedError, match="HEADRACE_WAREHOUSE_SECRET"):
            await warehouse.request_shipment(SHIPMENT, key="job-1")

    assert depot.calls == []


async def test_call_is_worth_another_attempt_when_nobody_listens() -> None:
    """A warehouse that is away may come back."""
    with pytest.raises(WarehouseAwayError):
        await call(free_port())


async def test_call_is_worth_another_attempt_when_the_warehouse_says_nothing() -> None:
    """A connection that is taken and never answered ends in time."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/orders"
        async with httpx.AsyncClient(timeout=0.1) as client:
            with pytest.raises(WarehouseAwayError, match="ReadTimeout"):
                await Warehouse(client, url=url, secret=SECRET).request_shipment(SHIPMENT, key="job-1")
