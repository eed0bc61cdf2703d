"""Limits by HTTP, and how a job stands to them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from headrace.api.door import Door
from headrace.jobs.limits import Rate, standing_limits
from headrace.settings import Settings
from tests.integration.api_road import KEY, enqueue, open_api

FULL = {"concurrency": 3, "rate": {"limit": 10, "per_seconds": 60.0}, "per_key_concurrency": 2}
NONE = {"concurrency": None, "rate": None, "per_key_concurrency": None}


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[tuple[httpx.AsyncClient, Door]]:
    """An API on a fresh record."""
    async with open_api(Settings(database_url=database_url, api_key=KEY)) as opened:
        yield opened


async def queue(client: httpx.AsyncClient, name: str) -> dict[str, Any]:
    """Return a queue as it is listed."""
    answer = await client.get("/v1/queues")
    (found,) = [one for one in answer.json()["items"] if one["name"] == name]
    return dict(found)


async def test_limits_are_replaced_when_they_are_put(api: tuple[httpx.AsyncClient, Door]) -> None:
    """What is missing is lifted; the listing shows the same; none at all is null."""
    client, _ = api
    await enqueue(client)

    before = await queue(client, "default")
    full = await client.put("/v1/queues/default/limits", json=FULL)
    listed = await queue(client, "default")
    part = await client.put("/v1/queues/default/limits", json={"concurrency": 5, "rate": None})
    lifted = await client.put("/v1/queues/default/limits", json={})

    assert before["limits"] is None
    assert (full.status_code, full.json()["limits"], listed["limits"]) == (200, FULL, FULL)
    assert part.json()["limits"] == NONE | {"concurrency": 5}
    assert (lifted.json()["name"], lifted.json()["limits"]) == ("default", None)


async def test_queue_is_made_when_limits_come_before_its_first_job(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Whoever sets a queue up need not wait for a job; a name that no queue can have is unknown."""
    client, _ = api

    made = await client.put("/v1/queues/to-come/limits", json={"concurrency": 1})
    impossible = await client.put("/v1/queues/%20no%20name%20/limits", json={"concurrency": 1})

    assert (made.status_code, made.json()["limits"]) == (200, NONE | {"concurrency": 1})
    assert (await queue(client, "to-come"))["counts"] == {}
    assert impossible.status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": -1}, "concurrency"),
        ({"concurrency": 1.5}, "concurrency"),
        ({"concurrency": "3"}, "concurrency"),
        ({"concurrency": 2**31}, "concurrency"),
        ({"per_key_concurrency": 0}, "per_key_concurrency"),
        ({"rate": {"limit": 5}}, "rate.per_seconds"),
        ({"rate": {"per_seconds": 5}}, "rate.limit"),
        ({"rate": {"limit": 0, "per_seconds": 1}}, "rate.limit"),
        ({"rate": {"limit": 1, "per_seconds": 0}}, "rate.per_seconds"),
        ({"rate": {"limit": 1, "per_seconds": 1e12}}, "rate.per_seconds"),
        ({"rate": {"limit": 1, "per_seconds": 1, "burst": 3}}, "rate.burst"),
        ({"rate": 5}, "rate"),
        ({"concurency": 3}, "concurency"),
        ([], ""),
    ],
)
async def test_limits_are_refused_by_field_when_they_make_no_sense(
    api: tuple[httpx.AsyncClient, Door], body: object, field: str
) -> None:
    """422 names what is wrong, and nothing is changed."""
    client, _ = api
    await client.put("/v1/queues/default/limits", json=FULL)

    answer = await client.put("/v1/queues/default/limits", json=body)

    assert answer.status_code == 422, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert (await queue(client, "default"))["limits"] == FULL


async def test_limits_are_described_when_openapi_is_asked(api: tuple[httpx.AsyncClient, Door]) -> None:
    """The route, its body and what a queue answers are in the description."""
    client, _ = api

    described = (await client.get("/openapi.json")).json()

    operation = described["paths"]["/v1/queues/{name}/limits"]["put"]
    assert "made" in operation["description"]
    assert set(described["components"]["schemas"]["Limits"]["properties"]) == set(FULL)


_STAND = """
    UPDATE jobs SET state = CAST($2 AS job_state), started_at = now() WHERE id = $1
"""


async def test_standing_tells_what_a_job_waits_for(api: tuple[httpx.AsyncClient, Door]) -> None:
    """The queue is full, the rate is reached until a time, the key is held by these jobs."""
    client, door = api
    jobs = [UUID((await enqueue(client, concurrency_key="a"))["id"]) for _ in range(3)]
    await client.put("/v1/queues/default/limits", json={"concurrency": 2, "rate": {"limit": 5, "per_seconds": 60}})
    async with door.record.engine.begin() as connection:
        free = await standing_limits(connection, jobs[0])
        for job_id, states in ((jobs[0], ["queued"]), (jobs[1], ["queued", "running"])):
            for state in states:
                await connection.exec_driver_sql(_STAND, (job_id, state))
        await connection.exec_driver_sql(
            "INSERT INTO queue_starts VALUES ('default', now() - interval '70 seconds', 100),"
            " ('default', now() - interval '50 seconds', 2), ('default', now() - interval '40 seconds', 2)"
        )

        waits = await standing_limits(connection, jobs[2])
        now = (await connection.exec_driver_sql("SELECT now()")).scalar_one()

    assert (free.queue_is_full, free.rate_is_reached, free.key_is_busy) == (False, False, False)
    assert (free.concurrency, free.in_flight, free.rate, free.key_limit) == (2, 0, Rate(5, 60.0), 1)
    assert (waits.queue_is_full, waits.in_flight) == (True, 2)
    assert (waits.rate_is_reached, waits.next_at) == (True, now + timedelta(seconds=10))
    assert (waits.key_is_busy, waits.holders) == (True, sorted(jobs[:2]))


async def test_jobs_of_the_same_key_go_first_when_they_stand_aside_too(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Also at a moment when nobody holds the key; those of other keys that stand aside are not in the way."""
    client, door = api
    jobs = [await enqueue(client, concurrency_key=key) for key in ("a", "b", "a", "a")]
    async with door.record.engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE jobs SET parked = true")

    explained = (await client.get(f"/v1/jobs/{jobs[3]['id']}/explain")).json()

    assert explained["ahead"] == 2
    assert "behind_others" in [reason["code"] for reason in explained["reasons"]]


async def test_standing_is_free_when_nothing_is_limited(api: tuple[httpx.AsyncClient, Door]) -> None:
    """A queue without limits and a job without a key."""
    client, door = api
    job_id = UUID((await enqueue(client))["id"])

    async with door.record.engine.connect() as connection:
        standing = await standing_limits(connection, job_id)

    assert (standing.concurrency, standing.rate, standing.next_at, standing.key_limit) == (None, None, None, None)
    assert (standing.queue_is_full, standing.rate_is_reached, standing.key_is_busy) == (False, False, False)
