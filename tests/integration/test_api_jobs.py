"""Jobs over HTTP: made, found, waited for, explained, cancelled and tried again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy import TextClause, text

from headrace.api.door import Door
from headrace.presence import Identity, Presence
from headrace.settings import Settings
from tests.integration.api_road import KEY, enqueue, open_api

FINISH = text("UPDATE jobs SET state = CAST(:state AS job_state), finished_at = now() WHERE CAST(id AS text) = :id")
LEAD = text("INSERT INTO leases (name, holder, expires_at) VALUES ('relay', gen_random_uuid(), 'infinity')")
RUN = text("UPDATE jobs SET state = 'running', attempt = 3, max_attempts = 3 WHERE CAST(id AS text) = :id")


@pytest.fixture
async def api(database_url: str, redis_url: str) -> AsyncIterator[tuple[httpx.AsyncClient, Door]]:
    """A client of the API, and the parts behind it."""
    async with open_api(Settings(database_url=database_url, redis_url=redis_url, api_key=KEY)) as opened:
        yield opened


async def execute(door: Door, statement: TextClause, **values: object) -> None:
    """Execute a statement behind the API's back; a job may get into any state."""
    async with door.record.engine.begin() as connection:
        await connection.execute(text("SET LOCAL session_replication_role = 'replica'"))
        await connection.execute(statement, values)


async def test_job_is_on_record_when_it_is_accepted(api: tuple[httpx.AsyncClient, Door]) -> None:
    """The answer is 202 with the job as it stands on record, and says where it is."""
    client, _ = api

    answer = await client.post(
        "/v1/jobs",
        json={
            "task": "trial.order",
            "args": {"order_id": "o1", "items": [{"sku": "a", "quantity": 2}]},
            "priority": 9,
            "delay_seconds": 60,
            "expires_at": "2100-01-01T00:00:00+02:00",
            "concurrency_key": "o1",
            "max_attempts": 2,
            "tags": ["order:o1"],
        },
    )
    found = await client.get(answer.headers["location"])

    assert answer.status_code == 202
    assert found.json() == answer.json()
    assert (
        found.json()
        | {
            "task": "trial.order",
            "queue": "orders",
            "state": "scheduled",
            "priority": 9,
            "attempt": 0,
            "max_attempts": 2,
            "expires_at": "2099-12-31T22:00:00Z",
            "progress": None,
            "result": None,
            "errors": [],
            "tags": ["order:o1"],
            "trace_id": answer.headers["trace-id"],
        }
        == found.json()
    )


async def test_jobs_are_all_on_record_when_many_arrive_at_once(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Requests that share a commit get each their own job."""
    client, _ = api

    jobs = await asyncio.gather(*(enqueue(client, args={"value": number}) for number in range(100)))
    found = (await client.get("/v1/jobs?limit=200")).json()["items"]

    assert [job["args"] for job in jobs] == [{"value": number} for number in range(100)]
    assert {job["id"]: job["args"] for job in found} == {job["id"]: job["args"] for job in jobs}


async def test_batch_is_answered_in_order_when_it_is_accepted(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Ids stand in the order of the request, and those of one unique key are one."""
    client, _ = api
    jobs = [{"task": "diagnostics.echo", "args": {"value": value}} for value in range(3)]
    jobs += [{"task": "diagnostics.echo", "args": {"value": value}, "unique_key": "u"} for value in (3, 4)]

    answer = await client.post("/v1/jobs/batch", json={"jobs": jobs})

    ids = answer.json()["ids"]
    found = {job["id"]: job["args"]["value"] for job in (await client.get("/v1/jobs")).json()["items"]}
    assert answer.status_code == 202
    assert [found[identity] for identity in ids] == [0, 1, 2, 3, 3]


async def test_same_job_is_answered_when_its_unique_key_is_held(api: tuple[httpx.AsyncClient, Door]) -> None:
    """While a job with a unique key is unfinished, a second call gets that job; afterwards a new one."""
    client, door = api

    first = await enqueue(client, unique_key="u")
    second = await enqueue(client, unique_key="u")
    await execute(door, FINISH, id=first["id"], state="succeeded")
    third = await enqueue(client, unique_key="u")

    assert second["id"] == first["id"]
    assert third["id"] != first["id"]


async def test_pages_cover_everything_when_they_are_followed(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Following `next_cursor` shows every job once, newest first, whatever comes in between."""
    client, _ = api
    made = [(await enqueue(client))["id"] for _ in range(5)]

    seen: list[str] = []
    page = (await client.get("/v1/jobs?limit=2")).json()
    while True:
        seen += [job["id"] for job in page["items"]]
        await enqueue(client)
        if page["next_cursor"] is None:
            break
        page = (await client.get("/v1/jobs", params={"limit": 2, "cursor": page["next_cursor"]})).json()

    assert seen == made[::-1]


async def test_jobs_are_found_when_filters_name_them(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Each filter narrows, and all of them must hold."""
    client, _ = api
    job = await enqueue(client, tags=["blue"], queue="other")
    await enqueue(client)

    async def ids(query: str) -> list[str]:
        return [found["id"] for found in (await client.get(f"/v1/jobs?{query}")).json()["items"]]

    for query in (
        "tag=blue",
        "queue=other",
        f"trace_id={job['trace_id']}",
        "state=pending&tag=blue&task=diagnostics.echo",
    ):
        assert await ids(query) == [job["id"]], query
    assert await ids("tag=blue&state=dead") == []


async def test_waiting_ends_when_the_job_does(api: tuple[httpx.AsyncClient, Door]) -> None:
    """`wait_seconds` answers as soon as the job is finished, and at the end of its time otherwise."""
    client, door = api
    job = await enqueue(client)

    waiting = asyncio.create_task(client.get(f"/v1/jobs/{job['id']}?wait_seconds=30"))
    early = await client.get(f"/v1/jobs/{job['id']}?wait_seconds=0.1")
    await execute(door, FINISH, id=job["id"], state="succeeded")
    async with asyncio.timeout(5):
        answer = await waiting

    assert early.json()["state"] == "pending"
    assert answer.json()["state"] == "succeeded"


async def test_job_never_runs_when_it_was_cancelled_in_time(api: tuple[httpx.AsyncClient, Door]) -> None:
    """An unstarted job is cancelled at once, and a second time is a conflict."""
    client, _ = api
    job = await enqueue(client)

    answers = [await client.post(f"/v1/jobs/{job['id']}/cancel") for _ in range(2)]

    assert [answer.status_code for answer in answers] == [202, 409]
    assert answers[0].json()["state"] == "cancelled"
    assert answers[0].json()["finished_at"] is not None


async def test_running_job_is_marked_when_it_is_cancelled(api: tuple[httpx.AsyncClient, Door]) -> None:
    """A running job goes on until its worker sees the mark."""
    client, door = api
    job = await enqueue(client)
    await execute(door, RUN, id=job["id"])

    answer = await client.post(f"/v1/jobs/{job['id']}/cancel")

    async with door.record.engine.connect() as connection:
        marked = (await connection.execute(text("SELECT cancel_requested_at IS NOT NULL FROM jobs"))).scalar_one()
    assert (answer.status_code, answer.json()["state"]) == (202, "running")
    assert marked


@pytest.mark.parametrize("state", ["dead", "cancelled", "expired"])
async def test_stopped_job_is_pending_again_when_it_is_retried(api: tuple[httpx.AsyncClient, Door], state: str) -> None:
    """A stopped job gets more attempts and counts on; one that has not stopped is a conflict."""
    client, door = api
    job = await enqueue(client)
    await execute(door, RUN, id=job["id"])
    await execute(door, FINISH, id=job["id"], state=state)

    answers = [await client.post(f"/v1/jobs/{job['id']}/retry") for _ in range(2)]

    again = answers[0].json()
    assert [answer.status_code for answer in answers] == [202, 409]
    assert (again["state"], again["attempt"], again["finished_at"]) == ("pending", 3, None)
    assert again["max_attempts"] == 6


async def test_retry_is_a_conflict_when_the_unique_key_is_taken(api: tuple[httpx.AsyncClient, Door]) -> None:
    """A stopped job cannot come back beside another one of its unique key."""
    client, door = api
    job = await enqueue(client, unique_key="u")
    await execute(door, FINISH, id=job["id"], state="dead")
    await enqueue(client, unique_key="u")

    answer = await client.post(f"/v1/jobs/{job['id']}/retry")

    assert answer.status_code == 409


async def test_reasons_hold_when_a_job_does_not_run(api: tuple[httpx.AsyncClient, Door], database_url: str) -> None:
    """`explain` names what is in the way at that moment, and nothing else."""
    client, door = api
    await execute(door, LEAD)
    first = await enqueue(client)
    job = await enqueue(client)
    later = await enqueue(client, delay_seconds=60)

    async def codes(which: dict[str, Any]) -> list[str]:
        return [reason["code"] for reason in (await client.get(f"/v1/jobs/{which['id']}/explain")).json()["reasons"]]

    assert await codes(job) == ["no_worker", "behind_others"]
    worker = Presence(database_url, Identity("worker", 3.0, tasks=["diagnostics.echo"], slots=1))
    await worker.start()
    assert await codes(first) == []
    assert await codes(job) == ["behind_others"]
    assert await codes(later) == ["not_due"]
    await client.post("/v1/queues/default/pause")
    assert await codes(first) == ["queue_paused"]
    await client.post("/v1/queues/default/resume")
    await execute(door, FINISH, id=first["id"], state="succeeded")
    assert await codes(first) == ["finished"]
    assert (await client.get(f"/v1/jobs/{job['id']}/explain")).json() == {
        "state": "pending",
        "reasons": [],
        "ahead": 0,
        "behind": 0,
        "forecast": {
            "position": 1,
            "start_in_seconds": {"low": 0.0, "likely": 0.05, "high": 1.0},
            "basis": "a worker has room for it",
        },
    }
    await worker.stop()


async def test_queue_shows_its_standing_when_jobs_wait(api: tuple[httpx.AsyncClient, Door], database_url: str) -> None:
    """A queue that a job has named is listed with its counts, and a worker that serves it."""
    client, _ = api
    await enqueue(client, queue="parcels")
    worker = Presence(database_url, Identity("worker", 3.0, queues=["parcels"], slots=7))
    await worker.start()

    queues = (await client.get("/v1/queues")).json()["items"]
    workers = (await client.get("/v1/workers")).json()["items"]
    await worker.stop()

    (parcels,) = [queue for queue in queues if queue["name"] == "parcels"]
    assert (parcels["paused"], parcels["counts"], parcels["workers"]) == (False, {"pending": 1}, 1)
    assert parcels["oldest_pending_age_seconds"] >= 0
    assert [(found["queues"], found["slots"], found["alive"], found["running"]) for found in workers] == [
        (["parcels"], 7, True, 0)
    ]


async def test_tasks_are_described_when_they_are_listed(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Every declared task is listed by name with the schemas of what it takes and returns."""
    client, _ = api

    first = (await client.get("/v1/tasks?limit=1")).json()
    rest = (await client.get("/v1/tasks", params={"cursor": first["next_cursor"]})).json()

    names = [task["name"] for task in [*first["items"], *rest["items"]]]
    order = rest["items"][-1]
    assert names == sorted(names)
    assert rest["next_cursor"] is None
    assert (order["name"], order["queue"], order["timeout_seconds"]) == ("trial.order", "orders", 300.0)
    assert order["retry"]["max_attempts"] == 10
    assert set(order["args_schema"]["$defs"]["TrialOrderArgs"]["required"]) == {"order_id", "items"}
    assert order["result_schema"] == {"type": "integer"}
