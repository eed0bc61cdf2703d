"""The preview: how many events of a time that is over a subscription would have been given."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest

from headrace.api.door import Door
from headrace.application import Application
from headrace.clock import first_id_at, now
from headrace.events.filters import Filter
from headrace.events.model import NewEvent
from headrace.events.preview import Bounds, Wish, preview, window_of
from headrace.events.registry import event, upcast
from headrace.settings import Settings
from headrace.transaction import transaction
from tests.integration.api_road import KEY, open_api


@event("shop.order.paid", subject="order_id", version=2)
class OrderPaid(msgspec.Struct, frozen=True):
    """An order was paid."""

    order_id: str
    total_cents: int


@upcast(OrderPaid, from_version=1)
def in_cents(data: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had whole units."""
    return {"order_id": data["order_id"], "total_cents": data["total"] * 100}


@event("shop.order.sent", subject="order_id")
class OrderSent(msgspec.Struct, frozen=True):
    """An order was sent."""

    order_id: str


SHOP = Application(name="shop", events=(OrderPaid, OrderSent))
LARGE = {"total_cents": [{"numeric": [">=", 1000]}]}


@pytest.fixture
async def api(database_url: str, redis_url: str) -> AsyncIterator[tuple[httpx.AsyncClient, Door]]:
    """A client of the API, and the parts behind it."""
    async with open_api(Settings(database_url=database_url, redis_url=redis_url, api_key=KEY), SHOP) as opened:
        yield opened


class Log:
    """Puts events on record as of other times."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._made = 0

    async def add(self, event_type: str, at: datetime, data: dict[str, Any], version: int = 1) -> UUID:
        """Put one event on record, made at `at`."""
        self._made += 1
        identity = UUID(int=first_id_at(at).int | (7 << 76) | (2 << 62) | self._made)
        given = NewEvent(
            id=identity,
            type=event_type,
            version=version,
            source="/shop",
            source_id=str(identity),
            subject="o",
            time=at,
            data=msgspec.Raw(json.dumps(data).encode()),
        )
        async with transaction(self._door.record) as tx:
            await tx.publish_events([given])
        return identity


@pytest.fixture
def log(api: tuple[httpx.AsyncClient, Door]) -> Log:
    """The log of the API's record."""
    return Log(api[1])


async def asked(client: httpx.AsyncClient, **body: object) -> dict[str, Any]:
    """Ask for a preview."""
    answer = await client.post("/v1/subscriptions/preview", json=body)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def test_preview_counts_yesterday_when_no_time_is_given(api: tuple[httpx.AsyncClient, Door], log: Log) -> None:
    """By type and by filter, with the newest that match; older and newer events are not counted."""
    client, _ = api
    midnight = now().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    noon = midnight - timedelta(hours=12)
    await log.add("shop.order.paid", midnight - timedelta(hours=25), {"order_id": "a", "total_cents": 9000}, 2)
    first = await log.add("shop.order.paid", noon, {"order_id": "b", "total_cents": 9000}, 2)
    await log.add("shop.order.paid", noon, {"order_id": "c", "total_cents": 900}, 2)
    older = await log.add("shop.order.paid", noon + timedelta(hours=1), {"order_id": "d", "total": 10}, 1)
    await log.add("shop.order.sent", noon, {"order_id": "b"})
    await log.add("gone.thing.happened", noon, {"total_cents": 5000})
    await log.add("shop.order.paid", midnight, {"order_id": "e", "total_cents": 9000}, 2)

    told = await asked(client, types=["shop.*"], filter=LARGE)

    assert (told["matched"], told["of"], told["cut"]) == (2, 5, None)
    assert told["by_type"] == {"shop.order.paid": {"matched": 2, "of": 3}, "shop.order.sent": {"matched": 0, "of": 1}}
    assert told["examples"] == [str(older), str(first)]
    assert (told["from_time"], told["to_time"]) == tuple(
        moment.strftime("%Y-%m-%dT%H:%M:%SZ") for moment in (midnight - timedelta(days=1), midnight)
    )


async def test_preview_counts_a_given_time_and_any_type_on_record(
    api: tuple[httpx.AsyncClient, Door], log: Log
) -> None:
    """Types that nobody declares any more are there too; declared ones without events count zero."""
    client, _ = api
    moment = now() - timedelta(hours=3)
    await log.add("gone.thing.happened", moment, {"total_cents": 5000})
    await log.add("gone.thing.happened", moment, {"total_cents": 5})

    told = await asked(client, types=["*"], filter=LARGE, from_time=(moment - timedelta(hours=1)).isoformat())

    assert told["by_type"] == {
        "gone.thing.happened": {"matched": 1, "of": 2},
        **{name: {"matched": 0, "of": 0} for name in ("shop.order.paid", "shop.order.sent", "trial.thing.happened")},
    }


async def test_preview_says_where_it_was_cut(api: tuple[httpx.AsyncClient, Door], log: Log) -> None:
    """The newest are counted, as many as the bound allows, and it is told from when on."""
    _, door = api
    moment = now() - timedelta(hours=3)
    ids = [await log.add("shop.order.sent", moment + timedelta(minutes=at), {"order_id": "a"}) for at in range(5)]
    wish = Wish(("shop.*",), None, window_of(moment - timedelta(hours=1), None))

    told = await preview(door.record, door.registry.events, wish, Bounds(events=3))
    whole = await preview(door.record, door.registry.events, wish, Bounds(events=6))

    assert (told.matched, told.of, told.examples) == (3, 3, ids[:1:-1])
    assert told.cut == "only the newest 3 events were looked at"
    assert told.looked_from == (moment + timedelta(minutes=2)).replace(
        microsecond=(moment + timedelta(minutes=2)).microsecond // 1000 * 1000
    )
    assert (whole.of, whole.cut, whole.looked_from) == (5, None, moment - timedelta(hours=1))


async def test_preview_ends_when_its_time_is_over(api: tuple[httpx.AsyncClient, Door], log: Log) -> None:
    """However much there is, it answers."""
    _, door = api
    for minutes in (5, 4, 3):
        await log.add("shop.order.sent", now() - timedelta(minutes=minutes), {"order_id": "a"})
    wish = Wish(("shop.*",), Filter.of({"order_id": ["a"]}), window_of(now() - timedelta(hours=1), None))

    told = await preview(door.record, door.registry.events, wish, Bounds(seconds=0.0, batch=2))

    assert (told.matched, told.cut) == (2, "only the 2 events that were read within 0 s were looked at")


async def test_preview_names_fields_that_no_type_has(api: tuple[httpx.AsyncClient, Door]) -> None:
    """A slip of spelling shows before the webhook is made."""
    client, _ = api

    told = await asked(client, types=["shop.*"], filter={"total_cent": [1], "order_id": ["x"]})

    assert told["unknown_fields"] == ["total_cent"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "types"),
        ({"types": []}, "types"),
        ({"types": ["shop.*", "A b"]}, "types.1"),
        ({"types": ["*"], "filter": {"a": "x"}}, "filter.a"),
        ({"types": ["*"], "from_time": "2026-01-02T00:00:00Z", "to_time": "2026-01-01T00:00:00Z"}, "to_time"),
        ({"types": ["*"], "from_time": "2026-01-02T00:00:00"}, "from_time"),
        ({"types": ["*"], "to_time": "0001-01-01T00:00:00Z"}, "to_time"),
        ({"types": ["*"], "from_time": "9999-01-01T00:00:00Z"}, "from_time"),
        ({"types": ["*"], "form_time": 1}, "form_time"),
    ],
)
async def test_preview_is_refused_when_it_is_malformed(
    api: tuple[httpx.AsyncClient, Door], body: dict[str, Any], field: str
) -> None:
    """422 names the field."""
    client, _ = api

    answer = await client.post("/v1/subscriptions/preview", json=body)

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
