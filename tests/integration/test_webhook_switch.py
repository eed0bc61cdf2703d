"""A webhook that is disabled and enabled at nearly the same time loses no delivery."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from uuid import UUID

import pytest

from headrace.testing.stores import Stores, open_stores
from headrace.transaction import transaction
from headrace.webhooks.holding import follow_switch, is_enabled
from tests.endpoints import always, endpoint
from tests.integration.webhook_world import DAY, Happened, world
from tests.servers import PostgresServer


@pytest.fixture
def stores(postgres_server: PostgresServer) -> Iterator[Stores]:
    """The run's own PostgreSQL."""
    with open_stores(database_url=postgres_server.url_of("postgres")) as opened:
        yield opened


async def test_deliveries_arrive_when_who_disabled_is_slower_than_who_enabled(stores: Stores) -> None:
    """Whoever still cancels for a switch that was undone finds the webhook enabled, and leaves the rest alone."""
    async with world(stores) as opened, endpoint(always(500)) as shop:
        made = await opened.make(shop.url)
        await opened.publish(Happened("a"))
        await opened.patch(made, enabled=False)
        await opened.patch(made, enabled=True)

        begin = partial(transaction, opened.headrace.record)
        await follow_switch(begin, UUID(made["id"]), enabled=False, by="somebody slow")
        shop.answer = always()
        await opened.headrace.advance(seconds=DAY)
        await opened.headrace.drain()
        deliveries = await opened.deliveries(made)

    assert [delivery["state"] for delivery in deliveries] == ["handled"]


async def test_enabling_waits_when_a_delivery_is_just_given_up(stores: Stores) -> None:
    """So what is cancelled in that moment is on record when the deliveries are taken up."""
    async with world(stores) as opened, endpoint() as shop:
        made = await opened.make(shop.url, enabled=False)

        async with transaction(opened.headrace.record) as tx:
            found = await is_enabled(tx, UUID(made["id"]))
            enabling = asyncio.create_task(opened.patch(made, enabled=True))
            done, _ = await asyncio.wait([enabling], timeout=0.5)
        changed = await enabling

    assert (found, done) == (False, set())
    assert changed["enabled"]
