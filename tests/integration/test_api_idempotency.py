"""A repeated request gets the first answer again, whatever happened in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest

from headrace.api.door import Door
from headrace.keys import create_key
from headrace.settings import Settings
from tests.integration.api_road import KEY, open_api

ECHO: dict[str, Any] = {"task": "diagnostics.echo", "args": {"value": 1}}
ONCE = {"Idempotency-Key": "first"}


@pytest.fixture
async def api(database_url: str, redis_url: str) -> AsyncIterator[tuple[httpx.AsyncClient, Door]]:
    """A client of the API, and the parts behind it."""
    async with open_api(Settings(database_url=database_url, redis_url=redis_url, api_key=KEY)) as opened:
        yield opened


async def test_first_answer_comes_again_when_the_request_is_repeated(api: tuple[httpx.AsyncClient, Door]) -> None:
    """The same key and body get the same status, body and place, and one job is made."""
    client, _ = api

    first = await client.post("/v1/jobs", json=ECHO, headers=ONCE)
    again = await client.post("/v1/jobs", json=ECHO, headers=ONCE)

    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["location"] == first.headers["location"]
    assert "idempotent-replay" not in first.headers
    assert again.headers["idempotent-replay"] == "true"
    assert len((await client.get("/v1/jobs")).json()["items"]) == 1


async def test_other_body_is_refused_when_the_key_was_used(api: tuple[httpx.AsyncClient, Door]) -> None:
    """The same key with another body, or on another path, is 422."""
    client, _ = api
    await client.post("/v1/jobs", json=ECHO, headers=ONCE)

    other = await client.post("/v1/jobs", json=ECHO | {"priority": 1}, headers=ONCE)
    elsewhere = await client.post("/v1/jobs/batch", json={"jobs": [ECHO]}, headers=ONCE)

    assert [answer.status_code for answer in (other, elsewhere)] == [422, 422]
    assert other.json()["errors"][0]["field"] == "Idempotency-Key"


async def test_repeat_is_a_conflict_when_the_first_is_under_way(
    api: tuple[httpx.AsyncClient, Door], database_url: str
) -> None:
    """While the first request holds the key, a repeat gets 409; when it is over, the repeat is the first."""
    client, _ = api
    other = await asyncpg.connect(database_url)
    held = other.transaction()
    await held.start()
    await other.execute("SELECT pg_advisory_xact_lock(hashtextextended('operator' || chr(31) || 'first', 0))")

    during = await client.post("/v1/jobs", json=ECHO, headers=ONCE)
    await held.rollback()
    after = await client.post("/v1/jobs", json=ECHO, headers=ONCE)
    await other.close()

    assert (during.status_code, after.status_code) == (409, 202)


async def test_one_job_is_made_when_repeats_race(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Of many requests with one key at once, one makes the job; the others conflict or get its answer."""
    client, _ = api

    answers = await asyncio.gather(*(client.post("/v1/jobs", json=ECHO, headers=ONCE) for _ in range(8)))

    made = {answer.json()["id"] for answer in answers if answer.status_code == 202}
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len(made) == len((await client.get("/v1/jobs")).json()["items"]) == 1


async def test_nothing_is_kept_when_the_request_failed(api: tuple[httpx.AsyncClient, Door]) -> None:
    """A refused request frees its key."""
    client, _ = api
    refused = await client.post("/v1/jobs", json=ECHO | {"task": "no.such"}, headers=ONCE)

    accepted = await client.post("/v1/jobs", json=ECHO, headers=ONCE)

    assert (refused.status_code, accepted.status_code) == (422, 202)


async def test_keys_are_apart_when_callers_are(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Two callers may use the same key."""
    client, door = api
    _, other = await create_key(door.record, "other", ["*"])

    mine = await client.post("/v1/jobs", json=ECHO, headers=ONCE)
    theirs = await client.post("/v1/jobs", json=ECHO, headers=ONCE | {"Authorization": f"Bearer {other}"})

    assert theirs.json()["id"] != mine.json()["id"]


async def test_key_is_free_again_when_a_day_has_passed(api: tuple[httpx.AsyncClient, Door], database_url: str) -> None:
    """After 24 hours the key makes a new job."""
    client, _ = api
    first = await client.post("/v1/jobs", json=ECHO, headers=ONCE)
    other = await asyncpg.connect(database_url)
    await other.execute("UPDATE idempotency_keys SET created_at = created_at - interval '25 hours'")
    await other.close()

    again = await client.post("/v1/jobs", json=ECHO, headers=ONCE)

    assert again.json()["id"] != first.json()["id"]


@pytest.mark.parametrize("path", ["/v1/jobs/batch", "/v1/events", "/v1/jobs/{job}/cancel"])
async def test_every_post_repeats_its_answer_when_asked_again(api: tuple[httpx.AsyncClient, Door], path: str) -> None:
    """Batches, events and an operator's acts take the key too: a repeated cancel is no conflict."""
    client, _ = api
    job = (await client.post("/v1/jobs", json=ECHO)).json()["id"]
    happened = {"specversion": "1.0", "id": "1", "source": "/t", "type": "trial.thing.happened", "data": {"thing": "x"}}
    body = {"/v1/jobs/batch": {"jobs": [ECHO]}, "/v1/events": happened}.get(path)

    answers = [await client.post(path.format(job=job), json=body, headers=ONCE) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].content == answers[1].content


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_key_is_refused_when_it_is_malformed(api: tuple[httpx.AsyncClient, Door], key: str) -> None:
    """A key has 1 to 255 characters."""
    client, _ = api

    answer = await client.post("/v1/jobs", json=ECHO, headers={"Idempotency-Key": key})

    assert answer.status_code == 422


_IN_THE_WAY = """
    CREATE SEQUENCE tries;
    CREATE FUNCTION get_in_the_way() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF nextval('tries') <= {times} THEN
            RAISE EXCEPTION 'deadlock detected' USING ERRCODE = 'deadlock_detected';
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER in_the_way BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION get_in_the_way();
"""


@pytest.mark.parametrize(("times", "status", "jobs"), [(2, 202, 1), (3, 503, 0)])
async def test_work_is_done_anew_when_postgresql_ends_it_for_another(
    api: tuple[httpx.AsyncClient, Door], database_url: str, times: int, status: int, jobs: int
) -> None:
    """A deadlock undoes everything: the request is repeated here, twice at most; then its caller is told the truth."""
    client, _ = api
    driver = await asyncpg.connect(database_url)
    await driver.execute(_IN_THE_WAY.format(times=times))
    await driver.close()

    answer = await client.post("/v1/jobs", json=ECHO, headers=ONCE)

    assert answer.status_code == status
    assert len((await client.get("/v1/jobs")).json()["items"]) == jobs
    assert status == 202 or "nothing was changed" in answer.json()["detail"]
