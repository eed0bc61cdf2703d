"""Subscribers that keep order: a key waits behind its failing event, and nothing else does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.lanes import Thing, eventually
from tests.ordered import NAME, World, api_of, brittle, on_the_road, open_world, ordered

KEYS = f"/v1/subscriptions/{NAME}/keys"
ODD = "a/b %2F ü?#&+\\\"' "


@pytest.fixture
async def world(database_url: str, redis_url: str) -> AsyncIterator[World]:
    """A world with the ordered subscriber."""
    async with open_world(database_url, redis_url, ordered) as opened:
        yield opened


def things(key: str, count: int, *, first: int = 0) -> list[Thing]:
    """Return things of a key."""
    return [Thing(key, number) for number in range(first, first + count)]


async def test_key_waits_and_others_go_on_when_one_of_its_events_fails(world: World) -> None:
    """What comes after a failing event of its key waits on record; the lanes move on, and all follows in order."""
    await world.break_("a", 2)
    async with on_the_road(world, ordered):
        await world.publish(*things("a", 6), *things("b", 6))
        await world.until_handled("b", range(6))
        await world.until_waiting(3)
        before = await world.handled("a")
        lag = await world.driver.fetchval("SELECT sum(head - position) FROM lanes JOIN checkpoints USING (lane)")

        await world.mend()
        await world.until_handled("a", range(6))
        await world.until_free()
        await world.publish(*things("a", 2, first=6))
        await world.until_handled("a", range(8))

    assert before == [0, 1]
    assert lag is not None
    assert await world.driver.fetchval("SELECT count(*) FROM waiting_events") == 0


async def test_key_stays_blocked_when_its_event_is_dead_until_somebody_retries(world: World) -> None:
    """A dead event blocks its key, visibly and with its error; a retry over the API lets the rest follow."""
    await world.break_("a", 0)
    async with on_the_road(world, brittle), api_of(world) as client:
        await world.publish(*things("a", 4))
        await world.until_waiting(3)
        (held,) = (await client.get(KEYS)).json()["items"]
        states = await _states(client, world)
        explained = (await client.get(f"/v1/jobs/{held['job_id']}/explain")).json()
        scraped = (await client.get("/metrics")).text.splitlines()

        await world.mend()
        answer = await client.post(f"{KEYS}/a/retry")
        await world.until_handled("a", range(4))
        await world.until_free()

    assert (held["key"], held["state"], held["waiting"]) == ("a", "dead", 3)
    assert held["error"] == "ConnectionError: a:0 is broken"
    assert states == ["dead", "pending", "pending", "pending"]
    assert explained["behind"] == 3
    assert f'headrace_held_keys{{state="dead",subscription="{NAME}"}} 1.0' in scraped
    assert f'headrace_waiting_events{{subscription="{NAME}"}} 3.0' in scraped
    assert (answer.status_code, answer.json()["key"]) == (202, "a")


async def _states(client: httpx.AsyncClient, world: World) -> list[str]:
    """Return how each event stands with the subscription, oldest first."""
    ids = [row["id"] for row in await world.driver.fetch("SELECT id FROM event_log ORDER BY id")]
    found = [(await client.get(f"/v1/events/{identity}")).json()["deliveries"] for identity in ids]
    return [one["state"] for (one,) in found]


@pytest.mark.parametrize("key", ["a", ODD])
async def test_rest_of_the_key_follows_when_the_failing_event_is_skipped(world: World, key: str) -> None:
    """To skip a key, whatever its characters, gives up the one event that blocks it; its delivery is skipped."""
    await world.break_(key, 1)
    async with on_the_road(world, ordered), api_of(world) as client:
        await world.publish(*things(key, 4))
        await world.until_waiting(2)

        answer = await client.post(f"{KEYS}/{quote(key, safe='')}/skip")
        await world.until_handled(key, [0, 2, 3])
        await world.until_free()
        states = await _states(client, world)

    assert (answer.status_code, answer.json()["key"]) == (202, key)
    assert states == ["handled", "skipped", "handled", "handled"]


async def test_cancelling_the_job_is_skipping_the_key(world: World) -> None:
    """A job that is cancelled as any other job is lets its key go."""
    await world.break_("a", 0)
    async with on_the_road(world, ordered), api_of(world) as client:
        await world.publish(*things("a", 3))
        await world.until_waiting(2)

        answer = await client.post("/v1/jobs/cancel", json={"tag": f"subscription:{NAME}"})
        await world.until_handled("a", [1, 2])

    assert answer.json() == {"count": 1}


async def test_next_failing_event_blocks_the_key_again_when_it_follows_from_the_record(world: World) -> None:
    """A second broken event further back blocks the key anew, with its own job and only what is behind it."""
    for number in (0, 3):
        await world.break_("a", number)
    async with on_the_road(world, brittle), api_of(world) as client:
        await world.publish(*things("a", 6))
        await world.until_waiting(5)
        await client.post(f"{KEYS}/a/skip")
        await world.until_waiting(2)
        (held,) = (await client.get(KEYS)).json()["items"]
        await client.post(f"{KEYS}/a/skip")
        await world.until_handled("a", [1, 2, 4, 5])

    assert (held["state"], held["waiting"]) == ("dead", 2)


async def test_order_is_kept_when_consumer_and_lanes_change_meanwhile(world: World) -> None:
    """A blocked key stays so over another consumer and another number of lanes, and events of both follow in order."""
    await world.break_("a", 1)
    async with on_the_road(world, brittle):
        await world.publish(*things("a", 4))
        await world.until_waiting(2)
    async with on_the_road(world, brittle, lanes=7), api_of(world) as client:
        await eventually(lambda: _has_lanes(world, 7))
        await world.publish(*things("a", 4, first=4), *things("b", 3))
        await world.until_handled("b", range(3))
        await world.until_waiting(6)
        await world.mend()
        await client.post(f"{KEYS}/a/retry")
        await world.until_handled("a", range(8))
        await world.until_free()


async def _has_lanes(world: World, count: int) -> bool:
    return bool(await world.driver.fetchval("SELECT count(*) = $1 FROM lanes", count))


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        (f"{KEYS}/nobody/retry", 404, f"no event of the key nobody waits for {NAME}"),
        ("/v1/subscriptions/nothing/keys/a/skip", 404, "no event of the key a waits for nothing"),
    ],
)
async def test_key_is_not_found_when_it_is_not_held(world: World, path: str, status: int, detail: str) -> None:
    """A key that nothing waits behind, and a subscription that is not there, are 404."""
    async with api_of(world) as client:
        answer = await client.post(path)
        listing = await client.get("/v1/subscriptions/nothing/keys")

    assert (answer.status_code, answer.json()["detail"]) == (status, detail)
    assert listing.status_code == 404


async def test_key_is_refused_when_it_holds_a_nul(world: World) -> None:
    """No key holds one: 422 names the field."""
    async with api_of(world) as client:
        answers = [await client.post(f"{KEYS}/{key}") for key in ("%00/retry", "a%00b/skip")]

    assert [answer.status_code for answer in answers] == [422, 422]
    assert [[one["field"] for one in answer.json()["errors"]] for answer in answers] == [["key"], ["key"]]


async def test_listing_has_pages_when_many_keys_are_held(world: World) -> None:
    """Keys come in their order, a page at a time; one that nothing blocks is catching up and cannot be skipped."""
    await world.driver.execute(
        "INSERT INTO held_keys (subscription, key, slot) SELECT $1, 'k' || n, 0 FROM generate_series(1, 3) n", NAME
    )
    async with api_of(world) as client:
        first: dict[str, Any] = (await client.get(f"{KEYS}?limit=2")).json()
        second = (await client.get(KEYS, params={"limit": 2, "cursor": first["next_cursor"]})).json()
        refused = await client.post(f"{KEYS}/k1/skip")

    assert [one["key"] for one in first["items"] + second["items"]] == ["k1", "k2", "k3"]
    assert {one["state"] for one in first["items"]} == {"catching_up"}
    assert refused.status_code == 409


async def test_waiting_events_leave_with_their_subscription_when_it_is_forgotten(world: World) -> None:
    """What waits for a subscription that is taken off the record waits for nobody."""
    await world.break_("a", 0)
    async with on_the_road(world, brittle):
        await world.publish(*things("a", 3))
        await world.until_waiting(2)

    await world.driver.execute("DELETE FROM subscriptions WHERE name = $1", NAME)

    left = await world.driver.fetchrow("SELECT (SELECT count(*) FROM held_keys), (SELECT count(*) FROM waiting_events)")
    assert left is not None
    assert tuple(left) == (0, 0)
