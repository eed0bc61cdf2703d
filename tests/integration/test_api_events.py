"""Events over HTTP: published once, shown as CloudEvents, found again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text

from headrace.api.door import Door
from headrace.clock import first_id_at, new_id, seconds_from_now
from headrace.settings import Settings
from tests.integration.api_road import KEY, open_api

SINGLE = {"Content-Type": "application/cloudevents+json"}
BATCH = {"Content-Type": "application/cloudevents-batch+json"}


@pytest.fixture
async def api(database_url: str, redis_url: str) -> AsyncIterator[tuple[httpx.AsyncClient, Door]]:
    """A client of the API, and the parts behind it."""
    async with open_api(Settings(database_url=database_url, redis_url=redis_url, api_key=KEY)) as opened:
        yield opened


def happened(identity: str, **changes: object) -> dict[str, Any]:
    """Return a CloudEvent."""
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": identity,
        "source": "/test",
        "type": "trial.thing.happened",
        "data": {"thing": "lamp"},
    }
    return event | changes


async def publish(client: httpx.AsyncClient, *events: dict[str, Any]) -> list[str]:
    """Publish events in one batch and return their ids."""
    answer = await client.post("/v1/events", content=json.dumps(events), headers=BATCH)
    assert answer.status_code == 202, answer.text
    ids: list[str] = answer.json()["ids"]
    return ids


async def test_event_is_shown_as_it_came_when_it_was_published(api: tuple[httpx.AsyncClient, Door]) -> None:
    """A CloudEvent keeps its attributes and extensions, by either id, and has a place."""
    client, _ = api
    sent = happened("a-1", subject="lamp-7", time="2026-01-02T03:04:05Z", region="eu", retries=3)

    answer = await client.post("/v1/events", content=json.dumps(sent), headers=SINGLE)
    (identity,) = answer.json()["ids"]
    by_record = (await client.get(f"/v1/events/{identity}")).json()
    by_producer = (await client.get("/v1/events/a-1")).json()

    assert answer.status_code == 202
    assert by_producer == by_record
    assert by_record | sent | {"data": {"thing": "lamp", "count": 1}} == by_record
    assert (by_record["record_id"], by_record["trace_id"]) == (identity, answer.headers["trace-id"])
    assert by_record["lane"] in range(4)
    assert by_record["position"] is None
    assert by_record["deliveries"] == []


async def test_subject_is_the_ordering_key_when_none_is_given(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Without a subject the event has that of its declaration."""
    client, _ = api

    (identity,) = await publish(client, happened("1"))

    assert (await client.get(f"/v1/events/{identity}")).json()["subject"] == "lamp"


async def test_event_is_one_when_it_is_sent_again(api: tuple[httpx.AsyncClient, Door]) -> None:
    """The same source and id twice is one event, in one batch and in several, and two sources are apart."""
    client, door = api

    first = await publish(client, happened("1"), happened("2"), happened("1"))
    again = await publish(client, happened("2"), happened("1"), happened("1", source="/other"))

    async with door.record.engine.connect() as connection:
        counts = (
            await connection.execute(text("SELECT (SELECT count(*) FROM event_log), (SELECT count(*) FROM outbox)"))
        ).one()
    assert first[0] == first[2]
    assert again[:2] == [first[1], first[0]]
    assert again[2] not in first
    assert tuple(counts) == (3, 3)


async def test_event_is_one_when_repeats_race(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Batches that hold the same events in other orders neither deadlock nor double."""
    client, _ = api
    events = [happened(str(number)) for number in range(20)]

    answers = await asyncio.gather(*(publish(client, *events[turn:], *events[:turn]) for turn in range(8)))

    assert all(set(answer) == set(answers[0]) for answer in answers)
    assert len((await client.get("/v1/events?limit=200")).json()["items"]) == 20


async def test_producers_id_is_the_records_when_it_fits(api: tuple[httpx.AsyncClient, Door]) -> None:
    """A UUIDv7 of about now is taken over; another one, or one that is taken already, is not."""
    client, _ = api
    fits = str(new_id())
    old = str(UUID(int=first_id_at(seconds_from_now(-90_000)).int | (0x7 << 76) | (0x2 << 62)))

    ids = await publish(client, happened(fits), happened(old), happened(fits, source="/other"))

    assert ids[0] == fits
    assert ids[1] != old
    assert ids[2] not in ids[:2]


async def test_every_event_is_accepted_when_producers_race_with_one_id(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Producers that know nothing of each other may have the same ids: one keeps them, the others get new ones."""
    client, _ = api
    ids = [str(new_id()) for _ in range(4)]

    answers = await asyncio.gather(
        *(
            publish(client, *(happened(identity, source=f"/{turn}") for identity in ids[turn % 4 :] + ids[: turn % 4]))
            for turn in range(6)
        )
    )

    assert len({identity for answer in answers for identity in answer}) == 24
    assert len((await client.get("/v1/events?limit=200")).json()["items"]) == 24


async def test_both_events_are_on_record_when_two_producers_race_with_one_id(
    api: tuple[httpx.AsyncClient, Door],
) -> None:
    """The same UUIDv7 from several sources at the same time is several events."""
    client, _ = api
    for _ in range(5):
        identity = str(new_id())

        answers = await asyncio.gather(
            *(publish(client, happened(identity, source=f"/{source}")) for source in range(4))
        )

        assert len({answer[0] for answer in answers}) == 4


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("type=trial.*", ["3", "2", "1"]),
        ("type=trial.thing.happened&subject=b", ["2"]),
        ("type=other.*", []),
        ("type=trial_thing%", []),
        ("from_time=2020-01-01T00:00:00Z", ["3", "2", "1"]),
        ("from_time=2999-01-01T00:00:00%2B02:00", []),
        ("trace_id=00000000000000000000000000000000", []),
    ],
)
async def test_events_are_found_when_filters_name_them(
    api: tuple[httpx.AsyncClient, Door], query: str, found: list[str]
) -> None:
    """Filters narrow, patterns match whole types, newest first."""
    client, _ = api
    await publish(
        client, *(happened(number, subject=subject) for number, subject in (("1", "a"), ("2", "b"), ("3", "c")))
    )

    page = (await client.get(f"/v1/events?{query}")).json()

    assert [event["id"] for event in page["items"]] == found


async def test_listing_is_refused_when_its_time_is_none_of_rfc_3339(api: tuple[httpx.AsyncClient, Door]) -> None:
    """A number, `null`, a time without its zone, one out of all bounds: 422 names the parameter and says which."""
    client, _ = api
    written = "this must be RFC 3339 with a time zone, such as 2026-01-31T12:00:00Z"
    times = {**dict.fromkeys(("0", "1.5", "1e3", "null", "", "2026-01-01T00:00:00"), written)}
    times |= dict.fromkeys(
        ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"), "this must lie between the years 1970 and 9999"
    )

    answers = [await client.get("/v1/events", params={"from_time": time}) for time in times]

    assert [answer.status_code for answer in answers] == [422] * len(times)
    told = [answer.json()["errors"] for answer in answers]
    assert told == [[{"field": "from_time", "message": message}] for message in times.values()]


async def test_pages_cover_everything_when_they_are_followed(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Following the cursor shows every event once."""
    client, _ = api
    await publish(client, *(happened(str(number)) for number in range(3)))

    first = (await client.get("/v1/events?limit=2")).json()
    last = (await client.get("/v1/events", params={"limit": 2, "cursor": first["next_cursor"]})).json()

    assert [event["id"] for event in [*first["items"], *last["items"]]] == ["2", "1", "0"]
    assert last["next_cursor"] is None


async def test_event_types_are_described_when_they_are_listed(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Every declared type is listed with the schema of its data."""
    client, _ = api

    (found,) = (await client.get("/v1/event-types")).json()["items"]

    assert (found["type"], found["version"], found["subscriptions"]) == ("trial.thing.happened", 1, [])
    assert found["schema"]["$defs"]["ThingHappened"]["required"] == ["thing"]
