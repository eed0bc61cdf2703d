"""Many jobs at once over HTTP: retried and cancelled by a filter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text

from headrace.api.door import Door
from headrace.database.driver import borrowed
from headrace.jobs.bulk import Change, cancelling, matching, retrying
from headrace.jobs.queries import JobFilter
from headrace.settings import Settings
from tests.integration.api_road import KEY, open_api

_INSERT = """
    INSERT INTO jobs (id, task, args, queue, state, attempt, max_attempts, unique_key, tags, finished_at, trace_id,
                      traceparent)
    SELECT gen_random_uuid(), $1, '{"value": 1}', $2, CAST($3 AS job_state), 1, 1, $4, $5,
           CASE WHEN $3 IN ('dead', 'cancelled', 'expired', 'succeeded') THEN now() END, 't', ''
    FROM generate_series(1, $6) RETURNING id
"""


@pytest.fixture
async def api(database_url: str, redis_url: str) -> AsyncIterator[tuple[httpx.AsyncClient, Door]]:
    """A client of the API, and the parts behind it."""
    async with open_api(Settings(database_url=database_url, redis_url=redis_url, api_key=KEY)) as opened:
        yield opened


async def put(  # noqa: PLR0913 - one argument for each thing that a filter may ask for
    door: Door,
    state: str,
    *,
    count: int = 1,
    task: str = "diagnostics.echo",
    queue: str = "default",
    unique_key: str | None = None,
    tags: tuple[str, ...] = (),
) -> list[UUID]:
    """Put jobs on record in a state."""
    async with borrowed(door.record.engine) as driver:
        rows = await driver.fetch(_INSERT, task, queue, state, unique_key, list(tags), count)
    return [row["id"] for row in rows]


async def states(door: Door) -> dict[str, int]:
    """Return how many jobs are in each state."""
    async with door.record.engine.connect() as connection:
        return {row[0]: row[1] for row in await connection.execute(text("SELECT state, count(*) FROM jobs GROUP BY 1"))}


async def test_matching_jobs_are_pending_again_when_they_are_retried(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Every dead job of the task comes back, with another attempt; others stay where they are."""
    client, door = api
    await put(door, "dead", count=2500)
    await put(door, "dead", task="trial.order", count=3)
    await put(door, "succeeded", count=2)

    answer = await client.post("/v1/jobs/retry", json={"state": "dead", "task": "diagnostics.echo"})

    assert (answer.status_code, answer.json()) == (202, {"count": 2500})
    assert await states(door) == {"pending": 2500, "dead": 3, "succeeded": 2}
    found = (await client.get("/v1/jobs", params={"state": "pending", "limit": 1})).json()["items"][0]
    assert (found["attempt"], found["max_attempts"], found["finished_at"]) == (1, 2, None)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"state": "pending"}, 2),
        ({"queue": "mail"}, 3),
        ({"task": "trial.order"}, 1),
        ({"tag": "a"}, 2),
        ({"tag": "a", "queue": "mail"}, 1),
        ({"state": "running", "queue": "mail"}, 1),
    ],
)
async def test_jobs_are_cancelled_when_they_meet_every_condition(
    api: tuple[httpx.AsyncClient, Door], chosen: dict[str, str], expected: int
) -> None:
    """Unfinished jobs in all states are met; a running one gets the request and stays running until it has ended."""
    client, door = api
    await put(door, "pending", tags=("a",))
    await put(door, "pending", queue="mail", tags=("a", "b"))
    await put(door, "scheduled", task="trial.order", queue="mail")
    await put(door, "running", queue="mail")
    await put(door, "dead", queue="mail", tags=("a",))

    answer = await client.post("/v1/jobs/cancel", json=chosen)

    assert (answer.status_code, answer.json()) == (202, {"count": expected})
    async with door.record.engine.connect() as connection:
        asked = text("SELECT count(*) FROM jobs WHERE cancel_requested_at IS NOT NULL")
        assert await connection.scalar(asked) == expected
    assert (await states(door))["running"] == 1


async def test_one_job_of_a_unique_key_comes_back_when_several_are_retried(
    api: tuple[httpx.AsyncClient, Door],
) -> None:
    """The key stays unique: the newest of them is retried, and none where another job holds the key by now."""
    client, door = api
    once = await put(door, "dead", unique_key="a", count=3)
    await put(door, "dead", unique_key="b")
    await put(door, "pending", unique_key="b")

    answer = await client.post("/v1/jobs/retry", json={"task": "diagnostics.echo"})

    assert answer.json() == {"count": 1}
    assert await states(door) == {"pending": 2, "dead": 3}
    assert (await client.get(f"/v1/jobs/{max(once)}")).json()["state"] == "pending"


@pytest.mark.parametrize("verb", ["retry", "cancel"])
async def test_filter_is_refused_when_it_has_no_condition(api: tuple[httpx.AsyncClient, Door], verb: str) -> None:
    """An empty filter would mean every job: the answer says what to name."""
    client, _ = api

    answer = await client.post(f"/v1/jobs/{verb}", json={})

    assert answer.status_code == 422
    assert "name at least one of state, task, queue and tag" in answer.json()["detail"]


@pytest.mark.parametrize(("verb", "state"), [("retry", "running"), ("retry", "succeeded"), ("cancel", "dead")])
async def test_filter_is_refused_when_its_state_cannot_match(
    api: tuple[httpx.AsyncClient, Door], verb: str, state: str
) -> None:
    """A state that the change cannot begin from is a mistake, and named."""
    client, _ = api

    answer = await client.post(f"/v1/jobs/{verb}", json={"state": state})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "state"


@pytest.mark.parametrize("body", [{"status": "dead"}, {"state": "gone"}, {"task": 3}, {"tag": ""}, [], None])
async def test_filter_is_refused_when_it_is_malformed(api: tuple[httpx.AsyncClient, Door], body: Any) -> None:  # noqa: ANN401 - any JSON
    """What is no filter changes nothing."""
    client, _ = api

    answer = await client.post("/v1/jobs/cancel", json=body)

    assert answer.status_code in {400, 422}


async def test_first_count_comes_again_when_a_request_is_repeated(api: tuple[httpx.AsyncClient, Door]) -> None:
    """The same key gets the same answer, and what has died since stays dead."""
    client, door = api
    await put(door, "dead", count=2)
    once = {"Idempotency-Key": "retry the dead"}

    first = await client.post("/v1/jobs/retry", json={"state": "dead"}, headers=once)
    await put(door, "dead")
    again = await client.post("/v1/jobs/retry", json={"state": "dead"}, headers=once)

    assert first.json() == again.json() == {"count": 2}
    assert again.headers["idempotent-replay"] == "true"
    assert await states(door) == {"pending": 2, "dead": 1}


async def test_held_jobs_are_changed_too_when_their_holder_lets_go(api: tuple[httpx.AsyncClient, Door]) -> None:
    """A job whose row somebody has locked is met again, and the others do not wait for it."""
    client, door = api
    held, *_ = await put(door, "pending", count=3)
    async with door.record.engine.connect() as holder:
        await holder.execute(text("SELECT FROM jobs WHERE id = :id FOR UPDATE"), {"id": held})
        cancelling = asyncio.create_task(client.post("/v1/jobs/cancel", json={"queue": "default"}))
        async with asyncio.timeout(5):
            while (await states(door)).get("cancelled") != 2:
                await asyncio.sleep(0.01)
        await holder.rollback()
    answer = await cancelling

    assert answer.json() == {"count": 3}
    assert await states(door) == {"cancelled": 3}


async def test_job_comes_back_when_its_key_is_locked_the_other_way_round(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Of two that wait for each other PostgreSQL ends one: a bulk change looks again, and its caller hears nothing."""
    client, door = api
    (job_id,) = await put(door, "dead", unique_key="k")
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with borrowed(door.record.engine) as driver, borrowed(door.record.engine) as other:
        await driver.execute("INSERT INTO unique_keys VALUES ('diagnostics.echo', 'k', $1, now() + '1 hour')", job_id)
        async with driver.transaction():
            await driver.execute("SET LOCAL deadlock_timeout = '1min'")  # it is the other one that PostgreSQL ends
            await driver.execute("SELECT FROM unique_keys FOR UPDATE")
            answering = asyncio.create_task(client.post("/v1/jobs/retry", json={"state": "dead"}))
            async with asyncio.timeout(10):
                while not await other.fetchval(waits):
                    await asyncio.sleep(0.01)
                await driver.execute("SELECT FROM jobs FOR UPDATE")

        answer = await answering

    assert (answer.status_code, answer.json()) == (202, {"count": 1})
    assert await states(door) == {"pending": 1}


async def test_every_request_is_answered_when_many_come_at_once(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Requests by filter take turns: none waits for a connection that another one of them holds."""
    client, door = api
    await put(door, "pending", count=50)

    answers = await asyncio.gather(*(client.post("/v1/jobs/cancel", json={"queue": "default"}) for _ in range(20)))

    assert {answer.status_code for answer in answers} == {202}
    assert sum(answer.json()["count"] for answer in answers) == 50


@pytest.mark.parametrize("change", [cancelling(), retrying({})])
@pytest.mark.parametrize("chosen", [JobFilter(task="trial.order"), JobFilter(queue="mail"), JobFilter(tag="a")])
async def test_finished_jobs_are_not_read_when_others_are_looked_for(
    api: tuple[httpx.AsyncClient, Door], chosen: JobFilter, change: Change
) -> None:
    """Every part of the search has the partial index of its states: millions of succeeded jobs cost it nothing."""
    _, door = api
    query, values = matching(chosen, change)

    async with borrowed(door.record.engine) as driver, driver.transaction():
        await driver.execute("SET LOCAL enable_seqscan = off")
        plan = [row[0] for row in await driver.fetch(f"EXPLAIN {query}", *values)]

    assert any("Index" in line for line in plan)
    assert not any("Seq Scan" in line for line in plan), plan


async def test_history_tells_each_state_when_a_job_has_moved(api: tuple[httpx.AsyncClient, Door]) -> None:
    """The oldest first, each with its time; the end of the way has no duration."""
    client, _ = api
    job = (await client.post("/v1/jobs", json={"task": "diagnostics.echo", "args": {"value": 1}})).json()
    await client.post(f"/v1/jobs/{job['id']}/cancel")
    await client.post(f"/v1/jobs/{job['id']}/retry")
    await client.post("/v1/jobs/cancel", json={"task": "diagnostics.echo"})

    page = (await client.get(f"/v1/jobs/{job['id']}/history")).json()
    first = (await client.get(f"/v1/jobs/{job['id']}/history", params={"limit": 3})).json()
    rest = (await client.get(f"/v1/jobs/{job['id']}/history", params={"cursor": first["next_cursor"]})).json()

    assert [move["state"] for move in page["items"]] == ["pending", "cancelled", "pending", "cancelled"]
    assert page["items"][0]["at"] >= job["created_at"]
    assert all(move["seconds"] >= 0 for move in page["items"][:-1])
    assert page["items"][-1]["seconds"] is None
    assert first["items"] + rest["items"] == page["items"]
    assert rest["next_cursor"] is None


async def test_history_is_404_when_there_is_no_such_job(api: tuple[httpx.AsyncClient, Door]) -> None:
    """An unknown job has no way."""
    client, _ = api

    answer = await client.get(f"/v1/jobs/{UUID(int=7)}/history")

    assert answer.status_code == 404
