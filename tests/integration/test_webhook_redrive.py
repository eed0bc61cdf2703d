"""Dead deliveries of a webhook, tried again as those of any subscription."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headrace.testing.stores import Stores, open_stores
from tests.endpoints import always, endpoint
from tests.integration.webhook_world import DAY, Happened, world
from tests.servers import PostgresServer


@pytest.fixture
def stores(postgres_server: PostgresServer, redis_url: str) -> Iterator[Stores]:
    """The run's own servers."""
    with open_stores(database_url=postgres_server.url_of("postgres"), redis_url=redis_url) as opened:
        yield opened


async def test_dead_deliveries_arrive_when_the_endpoint_is_mended(stores: Stores) -> None:
    """After days without success they are one group; redriven, each arrives under the id of before."""
    async with world(stores, webhook_disable_days=30) as opened, endpoint(always(500)) as shop:
        made = await opened.make(shop.url)
        await opened.publish(Happened("a"), Happened("b"))
        await opened.headrace.advance(days=6)
        await opened.headrace.drain()
        path = f"/v1/subscriptions/{made['subscription']}"
        groups = (await opened.client.get(f"{path}/dead")).json()["items"]
        failed = set(shop.ids)

        shop.answer = always(200)
        begun = (await opened.client.post(f"{path}/redrive", json={"canary": True})).json()
        await opened.headrace.advance(seconds=DAY)
        await opened.headrace.drain()
        left = (await opened.client.get(f"{path}/dead")).json()["items"]
        states = {delivery["state"] for delivery in await opened.deliveries(made)}

    assert [(group["count"], group["example"]["type"]) for group in groups] == [(2, "hooks.thing.happened")]
    assert begun["count"] == 2
    assert (left, states) == ([], {"handled"})
    assert set(shop.ids) == failed
