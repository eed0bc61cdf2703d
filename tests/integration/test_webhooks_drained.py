"""Webhooks on the real stores: a relay, a consumer and a worker at the same time, endpoints that answer for real."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from standardwebhooks import Webhook as Receiver

from headrace.testing.drained import Drained, drained
from headrace.testing.http import open_client
from headrace.testing.stores import Stores, open_stores
from tests.endpoints import Call, Reply, endpoint
from tests.integration.webhook_world import Happened, application, settings
from tests.servers import PostgresServer

_STARTS = """
    SELECT d.slot_at, a.at - make_interval(secs => a.seconds) AS begun_at
    FROM webhook_deliveries d JOIN webhook_attempts a ON a.delivery_id = d.id ORDER BY d.slot_at
"""


_MISSED_OR_TOO_MUCH = """
    SELECT w.id, e.id, sent.times, l.position, l.lane, w.begins
    FROM webhooks w CROSS JOIN lane_log l JOIN event_log e ON e.id = l.event_id
    CROSS JOIN LATERAL (SELECT count(*) AS times FROM webhook_deliveries d
                        WHERE d.webhook_id = w.id AND d.event_id = e.id) AS sent
    WHERE sent.times <> CASE WHEN l.position > CAST(w.begins ->> l.lane::text AS bigint) THEN 1 ELSE 0 END
"""


@pytest.fixture(scope="module")
def postgres_of_the_run(postgres_server: PostgresServer) -> str:
    """The run's own PostgreSQL."""
    return postgres_server.url_of("postgres")


@pytest.fixture
def stores(postgres_of_the_run: str, redis_url: str) -> Iterator[Stores]:
    """The run's own servers."""
    with open_stores(database_url=postgres_of_the_run, redis_url=redis_url) as opened:
        yield opened


@asynccontextmanager
async def at_work(stores: Stores) -> AsyncIterator[tuple[Drained, Any]]:
    """Run the application of these tests, and its API."""
    async with drained(application, stores, settings=settings()) as headrace, open_client(headrace) as client:
        yield headrace, client


async def make(client: Any, url: str, **changes: object) -> dict[str, Any]:  # noqa: ANN401 - httpx's client
    """Make a webhook."""
    answer = await client.post("/v1/webhooks", json={"url": url, "types": ["hooks.*"]} | changes)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def test_every_endpoint_has_every_event_once_when_there_are_many(stores: Stores) -> None:
    """Twenty endpoints, ten events: each call verifies by its own secret, and none comes twice."""
    async with at_work(stores) as (headrace, client), endpoint() as shop:
        secrets = {}
        for number in range(20):
            made = await make(client, f"{shop.url}/{number}")
            secrets[f"/hook/{number}"] = made["secret"]

        async with headrace.transaction() as tx:
            for number in range(10):
                await tx.publish(Happened(f"thing {number}"))
        await headrace.drain()

        assert Counter(call.path for call in shop.calls) == dict.fromkeys(secrets, 10)
        assert len({(call.path, call.id) for call in shop.calls}) == 200
        for call in shop.calls:
            assert Receiver(secrets[call.path]).verify(call.body, call.headers)["type"] == "hooks.thing.happened"


async def test_no_stretch_holds_more_than_the_rate_when_the_fleet_is_busy(stores: Stores) -> None:
    """Twenty a second are one every 50 ms, however much waits; no call begins before its start."""
    async with at_work(stores) as (headrace, client), endpoint() as shop:
        await make(client, shop.url, rate={"limit": 20, "per_seconds": 1.0})

        async with headrace.transaction() as tx:
            for number in range(50):
                await tx.publish(Happened(f"thing {number}"))
        await headrace.drain()

        async with headrace.record.engine.connect() as connection:
            rows = (await connection.exec_driver_sql(_STARTS)).all()
        assert len(shop.calls) == len(rows) == 50
        assert all(after.slot_at - before.slot_at >= timedelta(seconds=0.0499) for before, after in pairwise(rows))
        assert all(row.begun_at - row.slot_at >= timedelta(seconds=-0.01) for row in rows)


async def test_other_endpoints_are_served_when_one_is_slow(stores: Stores) -> None:
    """A slow endpoint has a few calls under way and no more; the others' deliveries pass."""
    awake = asyncio.Event()

    def answer(call: Call) -> Reply:
        return Reply(when=awake) if call.path.endswith("slow") else Reply()

    async with at_work(stores) as (headrace, client), endpoint(answer) as shop:
        await make(client, f"{shop.url}/slow")
        await make(client, f"{shop.url}/quick")

        async with headrace.transaction() as tx:
            for number in range(20):
                await tx.publish(Happened(f"thing {number}"))
        async with asyncio.timeout(12.0):
            while Counter(call.path for call in shop.calls)["/hook/quick"] < 20:
                await asyncio.sleep(0.01)
        under_way = Counter(call.path for call in shop.calls)["/hook/slow"]
        awake.set()
        await headrace.drain()

        assert under_way <= 5
        assert Counter(call.path for call in shop.calls)["/hook/slow"] == 20


async def test_each_event_lies_before_or_after_when_webhooks_are_made_among_them(stores: Stores) -> None:
    """Webhooks come and go while events are published: each gets all events after its beginning, and none before.

    The fan-out rests in between, when there is none, and its checkpoint leaps; nothing falls between.
    """
    async with at_work(stores) as (headrace, client), endpoint() as shop:
        ended = asyncio.Event()

        async def publish() -> None:
            while not ended.is_set():
                async with headrace.transaction() as tx:
                    await tx.publish(Happened(str(len(shop.calls))))
                await asyncio.sleep(0.01)

        publishing = asyncio.create_task(publish())
        for _ in range(2):
            first = await make(client, f"{shop.url}/first")
            await asyncio.sleep(0.2)
            await client.delete(f"/v1/webhooks/{first['id']}")
            await asyncio.sleep(1.1)  # the fan-out comes to rest
            await make(client, f"{shop.url}/second")
            others = [await make(client, f"{shop.url}/other") for _ in range(2)]
            for other in others:
                await client.delete(f"/v1/webhooks/{other['id']}")
        ended.set()
        await publishing
        await headrace.drain(60)

        async with headrace.record.engine.connect() as connection:
            wrong = (await connection.exec_driver_sql(_MISSED_OR_TOO_MUCH)).all()
            events = (await connection.exec_driver_sql("SELECT count(*) FROM event_log")).scalar_one()
        assert wrong == []
        assert events > 50
        assert shop.calls
