"""Webhooks over days: what an endpoint does to its deliveries, by a clock that the test moves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from itertools import pairwise

import pytest

from headrace.testing.stores import Stores, open_stores
from headrace.webhooks.schedule import DELAYS_SECONDS
from tests.endpoints import Endpoint, Reply, always, endpoint
from tests.integration.webhook_world import DAY, HOUR, ForgottenThing, Happened, World, world
from tests.servers import PostgresServer


@pytest.fixture(scope="module")
def stores(postgres_server: PostgresServer) -> Iterator[Stores]:
    """The run's own PostgreSQL."""
    with open_stores(database_url=postgres_server.url_of("postgres")) as opened:
        yield opened


@pytest.fixture
async def hooks(stores: Stores) -> AsyncIterator[World]:
    """A Headrace at noon, without a webhook."""
    async with world(stores) as opened:
        yield opened


@pytest.fixture
async def shop() -> AsyncIterator[Endpoint]:
    """Somebody's server, which takes everything."""
    async with endpoint() as opened:
        yield opened


async def test_event_is_sent_when_its_type_and_data_are_meant(hooks: World, shop: Endpoint) -> None:
    """Type and filter decide; the body is the CloudEvent, and nothing tells of our trace."""
    made = await hooks.make(shop.url, types=["*.happened"], filter={"count": [{"numeric": [">", 5]}]})

    await hooks.publish(Happened("a", 9), Happened("b", 1), ForgottenThing("c"))

    (call,) = shop.calls
    (delivery,) = await hooks.deliveries(made)
    assert call.headers["content-type"] == "application/cloudevents+json"
    assert (call.event["type"], call.event["subject"]) == ("hooks.thing.happened", "a")
    assert call.event["data"] == {"thing": "a", "count": 9}
    assert not {"traceparent", "tracestate", "baggage"} & (call.headers.keys() | call.event.keys())
    assert (delivery["state"], delivery["attempts"], delivery["last_status"]) == ("handled", 1, 200)
    assert delivery["last_response"] == "thank you"
    assert call.id == delivery["event_id"]


async def test_dead_deliveries_are_listed_page_by_page_when_only_they_are_asked_for(
    hooks: World, shop: Endpoint
) -> None:
    """The newest first, those of this webhook alone, and each once."""
    made, other = await hooks.make(f"{shop.url}/mine"), await hooks.make(f"{shop.url}/other")
    await hooks.publish(Happened("a"))
    shop.answer = always(500)
    await hooks.publish(Happened("b"), Happened("c"))
    await hooks.headrace.finish_all()
    expected = [one["id"] for one in await hooks.deliveries(made) if one["state"] == "dead"]

    path, query = f"/v1/webhooks/{made['id']}/deliveries", {"state": "dead", "limit": "1"}
    first = (await hooks.client.get(path, params=query)).json()
    second = (await hooks.client.get(path, params=query | {"cursor": first["next_cursor"]})).json()

    assert len(expected) == 2
    assert [one["id"] for page in (first, second) for one in page["items"]] == expected
    assert (second["next_cursor"], len(await hooks.deliveries(other))) == (None, 3)


async def test_attempts_follow_the_schedule_when_the_endpoint_fails_for_days(hooks: World, shop: Endpoint) -> None:
    """Ten attempts, each as long after the one before as Standard Webhooks says, give or take a tenth; then dead."""
    shop.answer = always(500)
    made = await hooks.make(shop.url)
    await hooks.publish(Happened("a"))

    await hooks.headrace.finish_all()

    (delivery,) = await hooks.deliveries(made)
    log = (await hooks.client.get(f"/v1/webhooks/{made['id']}/deliveries/{delivery['id']}")).json()["log"]
    times = [_seconds(entry["at"]) for entry in log]
    assert (delivery["state"], delivery["attempts"], len(log)) == ("dead", 10, 10)
    assert len(set(shop.ids)) == 1
    for (before, after), expected in zip(pairwise(times), DELAYS_SECONDS, strict=True):
        assert expected * 0.85 <= after - before <= expected * 1.15 + 5


async def test_server_is_left_alone_when_it_asks_for_time(hooks: World, shop: Endpoint) -> None:
    """Retry-After goes before the schedule, and holds for every delivery to that server."""
    shop.answer = always(429, retry_after="120")
    made = await hooks.make(shop.url)
    await hooks.publish(Happened("a"))
    await hooks.publish(Happened("b"))

    first = (await hooks.webhook(made))["circuit"]
    await hooks.headrace.advance(115)
    early = len(shop.calls)
    shop.answer = always()
    await hooks.headrace.advance(60)

    assert (first["state"], early) == ("open", 1)
    assert {delivery["state"] for delivery in await hooks.deliveries(made)} == {"handled"}
    assert (await hooks.webhook(made))["circuit"]["state"] == "closed"


async def test_webhook_is_disabled_at_once_when_the_endpoint_is_gone(hooks: World, shop: Endpoint) -> None:
    """410 disables, says why, and cancels what waits; nothing is sent any more."""
    shop.answer = always(503)
    made = await hooks.make(shop.url)
    await hooks.publish(Happened("a"))
    shop.answer = always(410)
    await hooks.publish(Happened("b"))
    await hooks.publish(Happened("c"))

    shown, deliveries = await hooks.webhook(made), await hooks.deliveries(made)
    path = f"/v1/webhooks/{made['id']}/deliveries"
    found = {state: await hooks.client.get(path, params={"state": state}) for state in ("cancelled", "dead", "gone")}

    assert (shown["enabled"], shown["disabled_reason"]) == (False, "the endpoint answered 410 Gone")
    assert shown["disabled_at"].startswith("2031-05-01T12:00")
    assert [delivery["state"] for delivery in deliveries] == ["cancelled", "cancelled"]
    assert all("410 Gone" in delivery["reason"] for delivery in deliveries)
    assert found["cancelled"].json()["items"] == deliveries
    assert (found["dead"].json()["items"], found["gone"].status_code) == ([], 422)
    assert len(shop.calls) == 2


async def test_deliveries_go_on_when_the_webhook_is_enabled_again(hooks: World, shop: Endpoint) -> None:
    """What was cancelled by disabling is taken up; events of the time between are not sent."""
    shop.answer = always(500)
    made = await hooks.make(shop.url)
    await hooks.publish(Happened("a"))
    await hooks.patch(made, enabled=False)
    await hooks.publish(Happened("between"))
    cancelled = await hooks.deliveries(made)
    shop.answer = always()

    await hooks.patch(made, enabled=True)
    await hooks.publish(Happened("b"))

    assert [delivery["state"] for delivery in cancelled] == ["cancelled"]
    assert [delivery["state"] for delivery in await hooks.deliveries(made)] == ["handled", "handled"]
    assert [call.event["subject"] for call in shop.calls] == ["a", "a", "b"]


async def test_webhook_is_disabled_when_it_has_failed_for_five_days(hooks: World, shop: Endpoint) -> None:
    """Days without a success disable it, with since when and the last error; the metric and the row say so."""
    shop.answer = always(500)
    made = await hooks.make(shop.url)
    for day in range(6):
        await hooks.publish(Happened(f"thing {day}"))
        await hooks.headrace.advance(days=1)

    shown = await hooks.webhook(made)

    assert shown["enabled"] is False
    assert shown["disabled_reason"].startswith("it has failed since 2031-05-01T12:00:00Z")
    assert "500" in shown["disabled_reason"]
    assert not {delivery["state"] for delivery in await hooks.deliveries(made)} & {"pending", "retrying"}


async def test_endpoint_is_spared_when_it_fails_again_and_again(hooks: World, shop: Endpoint) -> None:
    """After five failures one delivery at a time tries, ever later; the others wait and lose no attempt."""
    shop.answer = always(500)
    made = await hooks.make(shop.url)
    await hooks.publish(*(Happened(f"thing {number}") for number in range(40)))
    opened = await hooks.webhook(made)
    at_first = len(shop.calls)
    await hooks.headrace.advance(HOUR)
    after_an_hour = len(shop.calls)
    shop.answer = always()

    await hooks.headrace.advance(DAY)

    deliveries = await hooks.deliveries(made)
    assert (opened["circuit"]["state"], opened["circuit"]["failures"], at_first) == ("open", 5, 5)
    assert after_an_hour - at_first <= 40
    assert {delivery["state"] for delivery in deliveries} == {"handled"}
    assert (await hooks.webhook(made))["circuit"] == {
        "state": "closed", "failures": 0, "failing_since": None, "until": None
    }  # fmt: skip


async def test_deliveries_wait_when_the_subscription_is_paused(hooks: World, shop: Endpoint) -> None:
    """A pause holds them without an attempt; a resume lets them go at once."""
    made = await hooks.make(shop.url)
    name = made["subscription"]
    await hooks.client.post(f"/v1/subscriptions/{name}/pause")
    await hooks.publish(Happened("a"), Happened("b"))
    held = await hooks.deliveries(made)

    resumed = await hooks.client.post(f"/v1/subscriptions/{name}/resume")
    await hooks.headrace.drain()

    assert {(delivery["state"], delivery["reason"]) for delivery in held} == {("pending", "the webhook is paused")}
    assert resumed.json()["kind"] == "webhook"
    assert len(shop.calls) == 2


async def test_deliveries_end_when_the_webhook_is_deleted(hooks: World, shop: Endpoint) -> None:
    """They are cancelled, with the reason; nothing else is left of the webhook."""
    shop.answer = always(500)
    made = await hooks.make(shop.url)
    await hooks.publish(Happened("a"))

    answer = await hooks.client.delete(f"/v1/webhooks/{made['id']}")
    await hooks.headrace.advance(DAY)

    jobs = (await hooks.client.get("/v1/jobs", params={"task": "headrace.webhook"})).json()["items"]
    assert answer.status_code == 204
    assert [job["state"] for job in jobs] == ["cancelled"]
    assert (await hooks.client.get(f"/v1/webhooks/{made['id']}")).status_code == 404
    assert len(shop.calls) == 1


async def test_delivery_is_sent_again_when_asked(hooks: World, shop: Endpoint) -> None:
    """One that was handled is made anew, one that waits is brought forward; the webhook-id stays."""
    made = await hooks.make(shop.url)
    await hooks.publish(Happened("a"))
    (first,) = await hooks.deliveries(made)
    path = f"/v1/webhooks/{made['id']}/deliveries/{first['id']}/resend"
    again = (await hooks.client.post(path)).json()
    await hooks.headrace.drain()
    shop.answer = always(500)
    await hooks.publish(Happened("b"))
    waiting = (await hooks.deliveries(made))[0]
    shop.answer = always()

    forward = await hooks.client.post(f"/v1/webhooks/deliveries/{waiting['id']}/resend")
    await hooks.headrace.drain()

    assert again["resend_of"] == first["id"]
    assert shop.ids[0] == shop.ids[1] == first["event_id"]
    assert (forward.status_code, forward.json()["id"]) == (202, waiting["id"])
    assert {delivery["state"] for delivery in await hooks.deliveries(made)} == {"handled"}


async def test_starts_are_spread_when_the_webhook_has_a_rate(hooks: World, shop: Endpoint) -> None:
    """Two an hour are one every half hour; who waits for his start loses no attempt."""
    made = await hooks.make(shop.url, rate={"limit": 2, "per_seconds": HOUR})
    await hooks.publish(*(Happened(f"thing {number}") for number in range(4)))

    begun = len(shop.calls)
    await hooks.headrace.advance(HOUR - 60)
    first_hour = len(shop.calls)
    await hooks.headrace.advance(HOUR * 1.5)

    assert (begun, first_hour, len(shop.calls)) == (1, 2, 4)
    assert {delivery["attempts"] for delivery in await hooks.deliveries(made)} == {1}


async def test_every_misbehaviour_is_an_attempt_on_record_when_a_server_misbehaves(
    hooks: World, shop: Endpoint
) -> None:
    """A redirect is not followed, a huge answer is cut, a broken connection is named."""
    replies = {
        "redirect": Reply(302, {"location": shop.url}),
        "huge": Reply(500, body=b"x" * 3_000_000),
        "broken": Reply(breaks_off=True),
    }
    shop.answer = lambda call: replies[str(call.event["subject"])]
    made = await hooks.make(shop.url)

    await hooks.publish(*(Happened(thing) for thing in replies))

    by_status = {delivery["last_status"]: delivery for delivery in await hooks.deliveries(made)}
    redirect, huge, broken = by_status[302], by_status[500], by_status[None]
    assert (redirect["last_status"], redirect["last_error"]) == (302, "the endpoint answered 302")
    assert len(huge["last_response"]) <= 4096
    assert (broken["last_status"], broken["last_error"].partition(":")[0]) == (None, "broken_off")
    assert len(shop.calls) == 3


async def test_what_happened_stands_with_the_event_when_it_was_delivered(hooks: World, shop: Endpoint) -> None:
    """The event names each webhook that it was for; the subscriptions list it with its kind."""
    made = await hooks.make(shop.url, types=["hooks.thing.happened"])
    await hooks.publish(Happened("a"))
    other = await hooks.make(shop.url, types=["hooks.thing.happened"])

    event = (await hooks.client.get(f"/v1/events/{shop.ids[0]}")).json()
    listed = (await hooks.client.get("/v1/subscriptions")).json()["items"]
    types = (await hooks.client.get("/v1/event-types")).json()["items"]

    (delivery,) = event["deliveries"]
    by_name = {one["name"]: one for one in listed}
    assert (delivery["subscription"], delivery["state"]) == (made["subscription"], "handled")
    assert (by_name[made["subscription"]]["kind"], by_name[made["subscription"]]["lag"]) == ("webhook", 0)
    assert by_name[other["subscription"]]["types"] == ["hooks.thing.happened"]
    assert made["subscription"] in {one["type"]: one for one in types}["hooks.thing.happened"]["subscriptions"]


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
