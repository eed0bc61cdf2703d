"""What the API says of event types, and events of older versions from outside."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from headrace.api.door import Door
from headrace.application import Application
from headrace.events.registry import event, upcast
from headrace.settings import Settings
from headrace.subscribers.checkpoints import register
from headrace.subscribers.contract import subscriber
from headrace.subscribers.delivery import Delivery
from headrace.webhooks.secrets import new_key
from tests.integration.api_road import KEY, open_api

SINGLE = {"Content-Type": "application/cloudevents+json"}
TYPE = "shop.customer.joined"


@event(TYPE, subject="customer_id", version=3)
class CustomerJoined(msgspec.Struct, frozen=True):
    """Somebody became a customer."""

    customer_id: str
    first_name: str
    last_name: str


@upcast(CustomerJoined, from_version=2)
def split_name(data: dict[str, Any]) -> dict[str, Any]:
    """Version 2 had one name."""
    first, _, last = data.pop("name").partition(" ")
    return data | {"first_name": first, "last_name": last}


@subscriber("shop.welcome", CustomerJoined)
async def welcome(delivery: Delivery, joined: CustomerJoined) -> None:
    """Do nothing."""
    del delivery, joined


@subscriber("shop.all", "shop.*", where={"last_name": [{"prefix": "B"}]})
async def every(delivery: Delivery, data: Any) -> None:  # noqa: ANN401 - of whatever type meets the pattern
    """Do nothing."""
    del delivery, data


SHOP = Application(name="shop", events=(CustomerJoined,), subscriptions=(welcome, every))


@pytest.fixture
async def api(database_url: str, redis_url: str) -> AsyncIterator[tuple[httpx.AsyncClient, Door]]:
    """A client of the API, and the parts behind it."""
    settings = Settings(database_url=database_url, redis_url=redis_url, api_key=KEY, secret_keys=new_key())
    async with open_api(settings, SHOP) as opened:
        yield opened


def joined(data: object, **extensions: object) -> str:
    """Return a CloudEvent."""
    attributes = {"specversion": "1.0", "id": "1", "source": "/test", "type": TYPE}
    return json.dumps(attributes | {"data": data} | extensions)


@pytest.mark.parametrize("version", [2, "2"])
async def test_event_is_kept_as_it_came_when_its_version_is_older(
    api: tuple[httpx.AsyncClient, Door], version: object
) -> None:
    """A producer that was not deployed yet may go on: the event is on record in its version, and shown in it."""
    client, _ = api
    sent = joined({"customer_id": "c-1", "name": "Ada Byron", "more": 1}, dataversion=version)

    answer = await client.post("/v1/events", content=sent, headers=SINGLE)
    shown = (await client.get("/v1/events/1")).json()

    assert answer.status_code == 202, answer.text
    assert (shown["dataversion"], shown["subject"]) == (2, "c-1")
    assert shown["data"] == {"customer_id": "c-1", "name": "Ada Byron", "more": 1}


async def test_event_is_of_the_present_version_when_it_says_nothing(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Who does not say is held to the schema that the API describes."""
    client, _ = api

    await client.post("/v1/events", content=joined(PRESENT), headers=SINGLE)

    assert (await client.get("/v1/events/1")).json()["dataversion"] == 3


PRESENT = {"customer_id": "c-1", "first_name": "Ada", "last_name": "Byron"}


@pytest.mark.parametrize(
    ("data", "version", "field", "told"),
    [
        (PRESENT, 4, "dataversion", "is read in versions 2 to 3 here, not in version 4"),
        (PRESENT, 1, "dataversion", "is read in versions 2 to 3 here, not in version 1"),
        (PRESENT, "two", "dataversion", "whole number"),
        (PRESENT, 2.5, "dataversion", "whole number"),
        (PRESENT, 2, "data", "cannot be upcast from version 2"),
        ({"customer_id": 7, "name": "Ada"}, 2, "data.customer_id", "expected `str`"),
        ({"customer_id": "c", "name": "Ada", "x": "\x00"}, 2, "data.x", "NUL"),
        (["x"], 2, "data", "expected `object`"),
    ],
)
async def test_event_is_refused_when_its_version_cannot_be_read(
    api: tuple[httpx.AsyncClient, Door],
    data: object,
    version: object,
    field: str,
    told: str,
) -> None:
    """422 names the field, and says which versions are read."""
    client, _ = api

    answer = await client.post("/v1/events", content=joined(data, dataversion=version), headers=SINGLE)

    (wrong,) = answer.json()["errors"]
    assert (answer.status_code, wrong["field"]) == (422, field)
    assert told in wrong["message"]


async def test_event_type_names_everybody_who_listens(api: tuple[httpx.AsyncClient, Door]) -> None:
    """By a class or a pattern, in this code or on record only, and webhooks."""
    client, door = api
    await register(door.record.engine, [welcome, subscriber("other.every", "*.joined")(every.function)])
    made = await client.post("/v1/webhooks", json={"url": "https://example.org/", "types": ["shop.*"]})

    listed = (await client.get("/v1/event-types")).json()["items"]

    (shown,) = [one for one in listed if one["type"] == TYPE]
    assert (shown["version"], shown["oldest_version"]) == (3, 2)
    assert shown["schema"]["$defs"]["CustomerJoined"]["required"] == ["customer_id", "first_name", "last_name"]
    assert shown["subscriptions"] == ["other.every", "shop.all", "shop.welcome", f"webhook:{made.json()['id']}"]


async def test_events_are_described_to_whoever_asks(api: tuple[httpx.AsyncClient, Door]) -> None:
    """The document is public like the other one, and the page leads to both."""
    client, _ = api

    document = (await client.get("/asyncapi.json", headers={"Authorization": ""})).json()
    page = (await client.get("/docs")).text

    assert document["asyncapi"] == "3.0.0"
    assert TYPE in document["channels"]
    assert 'href="/asyncapi.json"' in page


async def test_subscription_shows_its_patterns_and_filter(api: tuple[httpx.AsyncClient, Door]) -> None:
    """What it listens to, as it is declared."""
    client, door = api
    await register(door.record.engine, [every])

    (shown,) = (await client.get("/v1/subscriptions")).json()["items"]

    assert (shown["types"], shown["filter"]) == (["shop.*"], {"last_name": [{"prefix": "B"}]})
