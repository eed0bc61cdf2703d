"""A replay to a webhook: new deliveries of what it is for, to nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from headrace.testing.stores import Stores, open_stores
from tests.endpoints import Endpoint, endpoint
from tests.integration.webhook_world import ForgottenThing, Happened, World, world
from tests.servers import PostgresServer


@pytest.fixture(scope="module")
def stores(postgres_server: PostgresServer) -> Iterator[Stores]:
    """The run's own PostgreSQL."""
    with open_stores(database_url=postgres_server.url_of("postgres")) as opened:
        yield opened


@pytest.fixture
async def hooks(stores: Stores) -> AsyncIterator[World]:
    """A Headrace without a webhook."""
    async with world(stores) as opened:
        yield opened


@pytest.fixture
async def shop() -> AsyncIterator[Endpoint]:
    """Somebody's server, which takes everything."""
    async with endpoint() as opened:
        yield opened


async def test_one_webhook_gets_new_deliveries_when_it_is_replayed_to(hooks: World, shop: Endpoint) -> None:
    """What it is for comes again with a header that says so, what was before its time too; others get nothing."""
    await hooks.publish(Happened("early", 7))
    made = await hooks.make(f"{shop.url}/mine", types=["*.happened"], filter={"count": [{"numeric": [">", 5]}]})
    await hooks.make(f"{shop.url}/other", types=["*"])
    await hooks.publish(Happened("a", 9), Happened("b", 1), ForgottenThing("c"))
    before = len(shop.calls)

    path = f"/v1/subscriptions/webhook:{made['id']}/replay"
    dry = await hooks.client.post(path, json={"dry_run": True})
    answer = await hooks.client.post(path, json={})
    await hooks.headrace.drain()

    job_id = answer.json()["job_id"]
    again = shop.calls[before:]
    (late,) = [call for call in again if call.event["subject"] == "a"]
    event = (await hooks.client.get(f"/v1/events/{late.event['id']}")).json()
    live = [one["state"] for one in event["deliveries"] if one["subscription"] == f"webhook:{made['id']}"]
    assert (answer.status_code, answer.json()["count"], dry.json()) == (202, 2, {"count": 2, "job_id": None})
    assert {str(call.event["subject"]) for call in again} == {"a", "early"}
    assert {call.headers["headrace-replay"] for call in again} == {job_id}
    assert [(one["replay"], one["state"]) for one in event["replays"]] == [(job_id, "handled")]
    assert live == ["handled"]


async def test_replay_is_refused_when_the_webhook_takes_nothing(hooks: World, shop: Endpoint) -> None:
    """A disabled webhook is 409, one that is not there 404."""
    made = await hooks.make(shop.url)
    await hooks.patch(made, enabled=False)

    disabled = await hooks.client.post(f"/v1/subscriptions/webhook:{made['id']}/replay", json={})
    gone = await hooks.client.post("/v1/subscriptions/webhook:01a00000-0000-7000-8000-000000000000/replay", json={})

    assert (disabled.status_code, gone.status_code) == (409, 404)


async def test_replay_is_dead_at_once_when_the_webhook_is_disabled_after_it_was_asked_for(
    hooks: World, shop: Endpoint
) -> None:
    """Trying again would mend nothing: one attempt, with the reason, and no delivery."""
    made = await hooks.make(shop.url)
    await hooks.publish(Happened("a", 9))
    before = len(shop.calls)
    answer = await hooks.client.post(f"/v1/subscriptions/webhook:{made['id']}/replay", json={})
    await hooks.patch(made, enabled=False)

    await hooks.headrace.drain()

    job = (await hooks.client.get(f"/v1/jobs/{answer.json()['job_id']}")).json()
    assert (job["state"], job["attempt"], len(shop.calls)) == ("dead", 1, before)
