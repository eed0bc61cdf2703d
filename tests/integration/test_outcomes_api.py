"""Retries, keys that are held for a time, and what a task declares, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from headrace.api.door import Door
from headrace.settings import Settings
from tests import outcomes
from tests.integration.api_road import KEY, enqueue, open_api

MOVE = text("UPDATE jobs SET state = CAST(:state AS job_state), attempt = 1 WHERE CAST(id AS text) = :id")
OVERRIDES = text("SELECT overrides FROM jobs WHERE CAST(id AS text) = :id")


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[tuple[httpx.AsyncClient, Door]]:
    """An API and its parts."""
    async with open_api(Settings(database_url=database_url, api_key=KEY), outcomes.application) as opened:
        yield opened


async def stopped(api: tuple[httpx.AsyncClient, Door], *, state: str = "dead", **changes: object) -> str:
    """Return the id of a job that has stopped after its first attempt."""
    client, door = api
    job = await enqueue(client, **changes)
    async with door.record.engine.begin() as connection:
        for move in ("queued", "running", state):
            await connection.execute(MOVE, {"id": job["id"], "state": move})
    return str(job["id"])


async def overrides_of(api: tuple[httpx.AsyncClient, Door], job_id: str) -> Any:  # noqa: ANN401 - JSON
    """Return what a job's call has set otherwise than its task."""
    async with api[1].record.engine.connect() as connection:
        return (await connection.execute(OVERRIDES, {"id": job_id})).scalar_one()


@pytest.mark.parametrize("content", [b"", b"{}", b"null"])
async def test_retry_needs_no_body(api: tuple[httpx.AsyncClient, Door], content: bytes) -> None:
    """The job is pending again as it was, with as many attempts as its task declares."""
    job_id = await stopped(api)

    answer = await api[0].post(f"/v1/jobs/{job_id}/retry", content=content)

    job = answer.json()
    assert answer.status_code == 202, answer.text
    assert (job["state"], job["attempt"], job["max_attempts"], job["former_args"]) == ("pending", 1, 11, [])


async def test_retry_takes_other_arguments_and_shows_those_of_before(api: tuple[httpx.AsyncClient, Door]) -> None:
    """The answer and the job say both, and how many more attempts there are."""
    task = {"task": "trial.order", "args": {"order_id": "o-1", "items": []}}
    job_id = await stopped(api, task=task["task"], args=task["args"])
    mended = {"order_id": "o-2", "items": [{"sku": "a", "quantity": 1}]}

    answer = await api[0].post(f"/v1/jobs/{job_id}/retry", json={"args": mended, "max_attempts": 2})
    job = (await api[0].get(f"/v1/jobs/{job_id}")).json()

    assert answer.status_code == 202, answer.text
    assert answer.json() == job
    assert (job["args"], job["max_attempts"]) == (mended, 3)
    (former,) = job["former_args"]
    assert (former["args"], former["attempt"]) == (task["args"], 1)
    assert former["replaced_at"].startswith("20")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"args": {"order_id": "o-2", "items": [{"sku": "a", "quantity": "two"}]}}, "args.items.0.quantity"),
        ({"args": {"order_id": "o-2"}}, "args.items"),
        ({"args": {"order_id": "o-2", "items": [], "note": ""}}, "args.note"),
        ({"args": {"order_id": "o\x00", "items": []}}, "args.order_id"),
        ({"args": {"order_id": "o" * 300_000, "items": []}}, "args"),
        ({"args": []}, "args"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"arguments": {}}, "arguments"),
    ],
)
async def test_retry_is_refused_when_its_body_does_not_fit(
    api: tuple[httpx.AsyncClient, Door], body: dict[str, Any], field: str
) -> None:
    """Each wrong field is named, and the job stays as it is."""
    job_id = await stopped(api, task="trial.order", args={"order_id": "o-1", "items": []})

    answer = await api[0].post(f"/v1/jobs/{job_id}/retry", json=body)

    assert answer.status_code == (413 if field == "args" and isinstance(body["args"], dict) else 422), answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert (await api[0].get(f"/v1/jobs/{job_id}")).json()["state"] == "dead"


async def test_retry_is_refused_when_nobody_can_check_the_arguments(api: tuple[httpx.AsyncClient, Door]) -> None:
    """A task of another version may be tried again, but only as it is."""
    job_id = await stopped(api)
    async with api[1].record.engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE jobs SET task = 'shop.of_tomorrow'")

    refused = await api[0].post(f"/v1/jobs/{job_id}/retry", json={"args": {"value": 2}})
    accepted = await api[0].post(f"/v1/jobs/{job_id}/retry")

    assert (refused.status_code, accepted.status_code) == (422, 202)
    assert refused.json()["errors"][0]["field"] == "args"


async def test_retry_is_a_conflict_when_the_job_has_not_stopped(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Only what has stopped without success is tried again."""
    job = await enqueue(api[0])

    answer = await api[0].post(f"/v1/jobs/{job['id']}/retry", json={"args": {"value": 2}})

    assert answer.status_code == 409


async def test_job_has_its_own_delays_and_bound_when_the_request_says_so(
    api: tuple[httpx.AsyncClient, Door],
) -> None:
    """What the request sets is what the worker reads; one without any has nothing stored."""
    given = {"retry": {"first_delay_seconds": 0, "max_delay_seconds": 5}, "timeout_seconds": 2.5}

    job = await enqueue(api[0], **given)
    keyed = await enqueue(api[0], unique_key="k", **given)
    plain = await enqueue(api[0])

    stored = {"first_delay_seconds": 0.0, "max_delay_seconds": 5.0, "timeout_seconds": 2.5}
    assert await overrides_of(api, job["id"]) == stored
    assert await overrides_of(api, keyed["id"]) == stored
    assert await overrides_of(api, plain["id"]) is None


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"retry": {"first_delay_seconds": -1}}, "retry.first_delay_seconds"),
        ({"retry": {"max_delay_seconds": 1e12}}, "retry.max_delay_seconds"),
        ({"retry": {"attempts": 3}}, "retry.attempts"),
        ({"retry": 3}, "retry"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"unique_key": "k", "unique_seconds": 0}, "unique_seconds"),
        ({"unique_seconds": 60}, "unique_seconds"),
    ],
)
async def test_job_is_refused_when_what_it_sets_is_out_of_bounds(
    api: tuple[httpx.AsyncClient, Door], changes: dict[str, Any], field: str
) -> None:
    """Each wrong field is named, alone and in a batch."""
    job = {"task": "diagnostics.echo", "args": {"value": 1}} | changes

    alone = await api[0].post("/v1/jobs", json=job)
    batch = await api[0].post("/v1/jobs/batch", json={"jobs": [job]})

    assert (alone.status_code, batch.status_code) == (422, 422)
    assert [error["field"] for error in alone.json()["errors"]] == [field]
    assert [error["field"] for error in batch.json()["errors"]] == [f"jobs.0.{field}"]


async def test_key_is_held_for_a_time_over_http(api: tuple[httpx.AsyncClient, Door]) -> None:
    """The answer is the job that has done it already, alone and in a batch."""
    held = {"unique_key": "k", "unique_seconds": 3600}
    first = await stopped(api, state="succeeded", **held)

    second = await enqueue(api[0], **held)
    job = {"task": "diagnostics.echo", "args": {"value": 1}} | held
    batch = await api[0].post("/v1/jobs/batch", json={"jobs": [job, job]})

    assert (second["id"], second["state"]) == (first, "succeeded")
    assert batch.json() == {"ids": [first, first]}


async def test_task_shows_what_it_declares(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Aliases, losses, retention and the hook are listed; a wish is no part of the result."""
    listed = {one["name"]: one for one in (await api[0].get("/v1/tasks?limit=200")).json()["items"]}

    assert listed["outcomes.wait"]["aliases"] == ["outcomes.nap"]
    assert listed["outcomes.snooze"]["result_schema"] == {"type": "integer"}
    assert listed["outcomes.resultless"]["result_schema"] == {"type": "null"}
    assert listed["outcomes.tough"]["retry"]["max_losses"] == 5
    poison = listed["outcomes.poison"]
    assert (poison["retention_seconds"], poison["on_dead"]) == (60.0, "outcomes.told")


async def test_document_says_that_a_retry_needs_no_body(api: tuple[httpx.AsyncClient, Door]) -> None:
    """A generated client can retry without naming anything."""
    document = (await api[0].get("/openapi.json")).json()

    body = document["paths"]["/v1/jobs/{job_id}/retry"]["post"]["requestBody"]
    assert body["required"] is False
    assert body["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/RetryRequest"}
    assert "former_args" in document["components"]["schemas"]["Job"]["properties"]
