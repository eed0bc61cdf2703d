"""Subscriptions over HTTP: looked at one by one, paused and resumed."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest

from headrace.api.door import Door
from headrace.clock import new_id
from headrace.leases import Leases
from headrace.relay.position import place
from headrace.relay.resizing import Resizing
from headrace.settings import Settings
from headrace.subscribers.contract import subscriber
from headrace.subscribers.delivery import Delivery
from tests.integration.api_road import KEY, open_api
from tests.lanes import Thing, publish, registered

NAME = "tests.notes"


@subscriber(NAME, Thing)
async def notes(delivery: Delivery, thing: Thing) -> None:
    """Do nothing."""
    del delivery, thing


@pytest.fixture
async def api(database_url: str, redis_url: str) -> AsyncIterator[tuple[httpx.AsyncClient, Door]]:
    """A client of the API, and the parts behind it, with one subscription on record."""
    async with open_api(Settings(database_url=database_url, redis_url=redis_url, api_key=KEY)) as (client, door):
        await registered(door.record, notes)
        yield client, door


async def test_pause_is_on_record_when_somebody_pauses(api: tuple[httpx.AsyncClient, Door]) -> None:
    """A paused subscription says since when and by whom; pausing it again changes neither, resuming clears both."""
    client, _ = api

    first = (await client.post(f"/v1/subscriptions/{NAME}/pause")).json()
    again = (await client.post(f"/v1/subscriptions/{NAME}/pause")).json()
    shown = (await client.get(f"/v1/subscriptions/{NAME}")).json()
    resumed = (await client.post(f"/v1/subscriptions/{NAME}/resume")).json()

    assert (first["paused"], first["paused_by"]) == (True, "operator")
    assert first["paused_at"] is not None
    assert again == shown == first
    assert (resumed["paused"], resumed["paused_at"], resumed["paused_by"]) == (False, None, None)


@pytest.mark.parametrize(("method", "path"), [("GET", "nobody"), ("POST", "nobody/pause"), ("POST", "nobody/resume")])
async def test_subscription_is_not_found_when_there_is_none(
    api: tuple[httpx.AsyncClient, Door], method: str, path: str
) -> None:
    """An unknown name is 404, whatever is asked of it."""
    client, _ = api

    answer = await client.request(method, f"/v1/subscriptions/{path}")

    assert answer.status_code == 404
    assert answer.json()["detail"] == "there is no subscription nobody"


async def test_lanes_tell_who_is_in_the_way_when_their_number_is_to_change(
    api: tuple[httpx.AsyncClient, Door], database_url: str
) -> None:
    """The change that is under way is shown with the subscription that has yet to pass, and why it does not go on."""
    client, door = api
    fence = (await Leases(door.record.engine, new_id(), seconds=60).take(["relay"]))["relay"]
    await publish(door.record, [Thing("a", 1)])
    await client.post(f"/v1/subscriptions/{NAME}/pause")
    driver = await asyncpg.connect(database_url)
    await place(driver, fence)
    await Resizing(driver, fence, wanted=8).step()
    await driver.close()

    shown = (await client.get("/v1/lanes?limit=3")).json()

    assert [one["lane"] for one in shown["items"]] == [0, 1, 2]
    assert shown["next_cursor"] is not None
    assert shown["resize"]["wanted"] == 8
    assert [(one["subscription"], one["events"], one["stuck"]) for one in shown["resize"]["waits_for"]] == [
        (NAME, 1, "it is paused")
    ]
