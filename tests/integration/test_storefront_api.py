"""The storefront over HTTP: answers, errors, and what can be read afterwards."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import msgspec
import pytest
from pypdf import PdfReader

from headrace.settings import Settings
from headrace.testing.http import open_client
from headrace.testing.inline import Inline, inline
from headrace.testing.stores import Stores, open_stores
from storefront.application import application
from storefront.events import OrderConfirmed, OrderCreated
from tests.integration.storefront_world import SECRET, Depot, Sink, running_depot, running_sink
from tests.servers import PostgresServer

ORDER: dict[str, Any] = {
    "customer_email": "ada@example.com",
    "currency": "EUR",
    "items": [{"sku": "MUG", "quantity": 2, "unit_price_cents": 1250}],
}
KEY = {"Authorization": "Bearer secret"}


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
async def road(stores: Stores, sink: Sink, depot: Depot) -> AsyncIterator[Inline]:
    """The storefront, with nothing on record."""
    settings = Settings(
        smtp_url=f"smtp://127.0.0.1:{sink.port}",
        warehouse_url=f"http://127.0.0.1:{depot.server_port}/orders",
        warehouse_secret=SECRET,
    )
    async with inline(application, stores, settings=settings) as opened:
        yield opened


@pytest.fixture
async def api(road: Inline) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API, with a key for everything."""
    async with open_client(road) as client:
        yield client


async def placed(api: httpx.AsyncClient, **changes: object) -> dict[str, Any]:
    """Place an order."""
    answer = await api.post("/v1/orders", json=ORDER | changes)
    assert answer.status_code == 201, answer.text
    order: dict[str, Any] = answer.json()
    return order


async def confirmed(api: httpx.AsyncClient) -> dict[str, Any]:
    """Place and confirm an order."""
    answer = await api.post(f"/v1/orders/{(await placed(api))['id']}/confirm")
    assert answer.status_code == 202, answer.text
    confirmation: dict[str, Any] = answer.json()
    return confirmation


def fields_of(answer: httpx.Response) -> list[str]:
    """Return the fields that a refusal names."""
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), answer.text
    return [error["field"] for error in answer.json()["errors"]]


async def test_order_is_answered_whole_when_it_is_placed(api: httpx.AsyncClient) -> None:
    """201 with the order, and its place."""
    answer = await api.post("/v1/orders", json=ORDER)

    order = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (201, f"/v1/orders/{order['id']}")
    assert {name: order[name] for name in ORDER} == ORDER
    assert (order["status"], order["total_cents"], order["confirmed_at"]) == ("draft", 2500, None)
    assert order["fulfilment"] == {"invoice": "pending", "confirmation_mail": "pending", "warehouse": "pending"}
    assert (await api.get(answer.headers["location"])).json() == order


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"customer_email": "ada"}, ["customer_email"]),
        ({"customer_email": 7}, ["customer_email"]),
        ({"customer_email": "ada\x00@example.com"}, ["customer_email"]),
        ({"currency": "XXX"}, ["currency"]),
        ({"currency": None}, ["currency"]),
        ({"items": []}, ["items"]),
        ({"items": [{"sku": "A", "quantity": -1, "unit_price_cents": 1}]}, ["items.0.quantity"]),
        ({"items": [{"sku": "A", "quantity": 1, "unit_price_cents": -1}]}, ["items.0.unit_price_cents"]),
        ({"items": [{"sku": "A\x00", "quantity": 1, "unit_price_cents": 1}]}, ["items.0.sku"]),
        ({"items": [{"sku": "A", "quantity": 10**6, "unit_price_cents": 2**53 - 1}]}, ["items"]),
        ({"items": [{"sku": "A", "quantity": 10**30, "unit_price_cents": 1}]}, ["items.0.quantity"]),
        ({"items": [{"sku": "A", "quantity": 1, "unit_price_cents": 1}] * 1001}, ["items"]),
    ],
)
async def test_field_is_named_when_the_order_is_wrong(
    api: httpx.AsyncClient, changes: dict[str, object], fields: list[str]
) -> None:
    """422 says what to mend, and nothing is on record."""
    answer = await api.post("/v1/orders", json=ORDER | changes)

    assert fields_of(answer) == fields


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[" * 100_000, 400),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"customer_email": "\\ud800@example.com"}', 400),
        (b" " * 2_000_000, 413),
    ],
)
async def test_body_is_refused_when_it_is_no_order(api: httpx.AsyncClient, body: bytes, status: int) -> None:
    """Broken, foreign and huge bodies are the caller's fault."""
    answer = await api.post("/v1/orders", content=body, headers={"content-type": "application/json"})

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert len(answer.json()["trace_id"]) == 32


@pytest.mark.parametrize("rest", ["", "/invoice", "/history"])
async def test_order_is_not_found_when_nobody_placed_it(api: httpx.AsyncClient, rest: str) -> None:
    """404 for a stranger's id and for what is no id."""
    unknown, malformed = await api.get(f"/v1/orders/{uuid4()}{rest}"), await api.get(f"/v1/orders/7{rest}")

    assert (unknown.status_code, malformed.status_code) == (404, 404)


async def test_order_is_refused_when_there_is_no_key(api: httpx.AsyncClient) -> None:
    """The storefront's routes are guarded like all others."""
    answer = await api.post("/v1/orders", json=ORDER, headers={"Authorization": ""})

    assert answer.status_code == 401


async def test_order_is_binding_when_it_is_confirmed(api: httpx.AsyncClient) -> None:
    """202 with the order and the trace in which the rest follows."""
    order = await placed(api)

    answer = await api.post(f"/v1/orders/{order['id']}/confirm")

    confirmation = answer.json()
    assert answer.status_code == 202
    assert (confirmation["order"]["status"], confirmation["order"]["items"]) == ("confirmed", order["items"])
    assert confirmation["trace_id"] == answer.headers["trace-id"]
    assert (await api.get(f"/v1/orders/{order['id']}")).json() == confirmation["order"]


async def test_second_confirmation_conflicts_when_it_has_no_key(api: httpx.AsyncClient) -> None:
    """409, and 404 for what does not exist."""
    order = (await confirmed(api))["order"]

    again = await api.post(f"/v1/orders/{order['id']}/confirm")
    unknown = await api.post(f"/v1/orders/{uuid4()}/confirm")

    assert (again.status_code, unknown.status_code) == (409, 404)


async def test_answer_is_the_first_when_the_key_is_repeated(api: httpx.AsyncClient, road: Inline) -> None:
    """Repeats under one key place one order, confirm it once, and say so."""
    first, repeat = [await api.post("/v1/orders", json=ORDER, headers={"Idempotency-Key": "a"}) for _ in range(2)]
    url = f"/v1/orders/{first.json()['id']}/confirm"
    confirm, again = [await api.post(url, headers={"Idempotency-Key": "b"}) for _ in range(2)]

    assert (repeat.status_code, repeat.content, repeat.headers["idempotent-replay"]) == (201, first.content, "true")
    assert repeat.headers["location"] == first.headers["location"]
    assert (again.status_code, again.content, again.headers["idempotent-replay"]) == (202, confirm.content, "true")
    assert len(await road.published(OrderCreated)) == len(await road.published(OrderConfirmed)) == 1


async def test_one_order_is_placed_when_a_key_is_used_at_once(api: httpx.AsyncClient, road: Inline) -> None:
    """Whoever comes second waits outside, or gets the first answer."""
    requests = (api.post("/v1/orders", json=ORDER, headers={"Idempotency-Key": "a"}) for _ in range(8))

    answers = await asyncio.gather(*requests)

    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 201}) == 1
    assert len(await road.published(OrderCreated)) == 1


async def test_invoice_is_served_when_it_is_ready(api: httpx.AsyncClient, road: Inline) -> None:
    """404 with `Retry-After` before, the PDF after."""
    order = (await confirmed(api))["order"]
    url = f"/v1/orders/{order['id']}/invoice"
    early = await api.get(url)

    await road.finish_all()
    ready = await api.get(url)

    assert (early.status_code, early.headers["retry-after"]) == (404, "1")
    assert (ready.status_code, ready.headers["content-type"]) == (200, "application/pdf")
    assert order["id"] in PdfReader(io.BytesIO(ready.content)).pages[0].extract_text()
    assert ready.headers["content-disposition"] == 'inline; filename="INV-000001.pdf"'


async def test_fulfilment_is_ready_when_everything_has_followed(api: httpx.AsyncClient, road: Inline) -> None:
    """The order says what has been done for it."""
    order = (await confirmed(api))["order"]

    await road.finish_all()

    shown = (await api.get(f"/v1/orders/{order['id']}")).json()
    assert shown["fulfilment"] == {"invoice": "ready", "confirmation_mail": "ready", "warehouse": "ready"}


async def test_history_is_as_of_then_when_a_time_is_given(api: httpx.AsyncClient, road: Inline) -> None:
    """Events up to the time, oldest first, and the state that they lead to."""
    order = await placed(api)
    await road.advance(1)
    await api.post(f"/v1/orders/{order['id']}/confirm")
    await road.finish_all()
    url = f"/v1/orders/{order['id']}/history"

    whole = (await api.get(url)).json()
    created, confirmation, *rest = whole["events"]
    between = quote(created["time"])
    before = quote((datetime.fromisoformat(created["time"]) - timedelta(seconds=1)).isoformat())
    draft, nothing = (await api.get(f"{url}?at={between}")).json(), (await api.get(f"{url}?at={before}")).json()

    assert (created["type"], confirmation["type"]) == ("orders.order.created", "orders.order.confirmed")
    assert {act["type"] for act in rest} == {
        "orders.order.invoiced",
        "orders.order.confirmation_mailed",
        "orders.order.shipment_requested",
    }
    assert whole["state"] == (await api.get(f"/v1/orders/{order['id']}")).json()
    assert [act["type"] for act in draft["events"]] == ["orders.order.created"]
    assert (draft["state"]["status"], draft["state"]["confirmed_at"]) == ("draft", None)
    assert (nothing["events"], nothing["state"]) == ([], None)


async def test_pages_of_history_meet_when_they_are_read_one_by_one(api: httpx.AsyncClient, road: Inline) -> None:
    """Each page has the state of the whole."""
    order = (await confirmed(api))["order"]
    await road.finish_all()
    url = f"/v1/orders/{order['id']}/history"
    whole = (await api.get(url)).json()

    read: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await api.get(url + "?limit=2" + (f"&cursor={cursor}" if cursor else ""))).json()
        read += page["events"]
        cursor = page["next_cursor"]
        assert page["state"] == whole["state"]

    assert read == whole["events"]


async def test_analytics_and_audit_are_listed_when_orders_are_confirmed(api: httpx.AsyncClient, road: Inline) -> None:
    """Sales by day and currency, acts by order, both in pages."""
    orders = [(await confirmed(api))["order"] for _ in range(3)]
    await road.finish_all()
    day = orders[0]["confirmed_at"][:10]

    sales = (await api.get("/v1/analytics/orders", params={"from": day, "to": day})).json()
    none = (await api.get("/v1/analytics/orders", params={"to": "2000-01-01"})).json()
    acts = (await api.get("/v1/audit", params={"subject": orders[0]["id"]})).json()
    first = (await api.get("/v1/audit", params={"limit": 10})).json()
    rest = (await api.get("/v1/audit", params={"limit": 10, "cursor": first["next_cursor"]})).json()

    assert sales["items"][-1]["day"] == day
    assert sum(sold["orders"] for sold in sales["items"]) == 3
    assert sum(sold["revenue_cents"] for sold in sales["items"]) == 7500
    assert none == {"items": [], "next_cursor": None}
    assert {act["action"].rpartition(".")[2] for act in acts["items"]} == {
        *("created", "confirmed", "invoiced", "confirmation_mailed", "shipment_requested")
    }
    assert {act["subject"] for act in acts["items"]} == {orders[0]["id"]}
    assert {act["actor"] for act in acts["items"] if act["action"] == "orders.order.confirmed"} == {"operator"}
    assert (len(first["items"]), len(rest["items"]), rest["next_cursor"]) == (10, 5, None)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("/v1/analytics/orders?from=yesterday", "from"),
        ("/v1/analytics/orders?from=2026-02-01&to=2026-01-01", "from"),
        ("/v1/analytics/orders?limit=0", "limit"),
        ("/v1/analytics/orders?limit=201", "limit"),
        ("/v1/analytics/orders?cursor=%F0%9F%98%80", "cursor"),
        ("/v1/analytics/orders?cursor=eA==", "cursor"),
        ("/v1/audit?cursor=eA==", "cursor"),
    ],
)
async def test_parameter_is_named_when_it_is_wrong(api: httpx.AsyncClient, query: str, field: str) -> None:
    """A query that cannot be understood is refused with its reason."""
    answer = await api.get(query)

    assert fields_of(answer) == [field]


@pytest.mark.parametrize(
    "at",
    [
        "2026-01-01T00:00:00",
        "yesterday",
        "0001-01-01T00:00:00%2B14:00",
        "9999-12-31T23:59:59-14:00",
        "2026-13-01T00:00:00Z",
    ],
)
async def test_time_is_refused_when_it_is_none(api: httpx.AsyncClient, at: str) -> None:
    """A time that cannot be is the caller's fault."""
    order = await placed(api)

    answer = await api.get(f"/v1/orders/{order['id']}/history?at={at}")

    assert fields_of(answer) == ["at"]


async def test_nul_is_refused_when_it_is_in_a_query(api: httpx.AsyncClient) -> None:
    """What PostgreSQL cannot compare with is the caller's fault."""
    answer = await api.get("/v1/audit?subject=%00")

    assert answer.status_code == 422


async def test_routes_are_described_when_openapi_is_asked_for(api: httpx.AsyncClient) -> None:
    """Every route of the storefront is in the published description."""
    described = msgspec.json.decode((await api.get("/openapi.json")).content, type=dict[str, Any])

    assert {
        "/v1/orders",
        "/v1/orders/{order_id}",
        "/v1/orders/{order_id}/confirm",
        "/v1/orders/{order_id}/invoice",
        "/v1/orders/{order_id}/history",
        "/v1/analytics/orders",
        "/v1/audit",
    } <= set(described["paths"])
