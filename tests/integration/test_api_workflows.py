"""Workflows over HTTP: started whole or not at all, refused by the name of the job, listed by parents and children."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from headrace.api.door import Door
from headrace.keys import create_key
from headrace.settings import Settings
from tests.integration.api_road import KEY, open_api

ECHO = {"task": "diagnostics.echo", "args": {"value": 1}}


@pytest.fixture
async def api(database_url: str, redis_url: str) -> AsyncIterator[tuple[httpx.AsyncClient, Door]]:
    """A client of the API, and the parts behind it."""
    async with open_api(Settings(database_url=database_url, redis_url=redis_url, api_key=KEY)) as opened:
        yield opened


def echo(**changes: object) -> dict[str, Any]:
    """Return the body of a job."""
    return ECHO | changes


async def count(door: Door, table: str = "jobs") -> int:
    """Return how many rows a table has."""
    async with door.record.engine.connect() as connection:
        found = await connection.execute(text(f"SELECT count(*) FROM {table}"))  # noqa: S608 - our own name
        return int(found.scalar_one())


async def test_workflow_is_on_record_when_it_is_accepted(api: tuple[httpx.AsyncClient, Door]) -> None:
    """The answer names the ids; a job that waits is scheduled, below its first parent, with all its options."""
    client, _ = api

    answer = await client.post(
        "/v1/workflows",
        json={"jobs": {"b": echo(after=["c", "a"], priority=9, queue="slow", tags=["w"]), "a": echo(), "c": echo()}},
    )
    ids = answer.json()["ids"]
    jobs = {name: (await client.get(f"/v1/jobs/{job_id}")).json() for name, job_id in ids.items()}

    assert answer.status_code == 202, answer.text
    assert {name: job["state"] for name, job in jobs.items()} == {"a": "pending", "b": "scheduled", "c": "pending"}
    assert {name: job["parent_id"] for name, job in jobs.items()} == {"a": None, "b": ids["c"], "c": None}
    assert (jobs["b"]["priority"], jobs["b"]["queue"], jobs["b"]["tags"]) == (9, "slow", ["w"])
    assert len({job["trace_id"] for job in jobs.values()}) == 1


async def test_parents_and_children_are_listed_in_pages(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Both sides of a link can be followed, by pages like every listing; an unknown job is 404."""
    client, _ = api
    body = {"jobs": {"a": echo(), "b": echo(after=["a"]), "c": echo(after=["a", "b"])}}
    ids = (await client.post("/v1/workflows", json=body)).json()["ids"]

    first = (await client.get(f"/v1/jobs/{ids['c']}/parents?limit=1")).json()
    second = (await client.get(f"/v1/jobs/{ids['c']}/parents?limit=1&cursor={first['next_cursor']}")).json()
    children = (await client.get(f"/v1/jobs/{ids['a']}/children")).json()
    unknown = await client.get("/v1/jobs/01a1fc1a-acca-7000-b809-b36985837aa8/parents")

    assert first["items"] == [
        {
            "name": "a",
            "id": ids["a"],
            "task": "diagnostics.echo",
            "state": "pending",
            "needs": "succeeded",
            "satisfied": False,
        }
    ]
    assert [parent["name"] for parent in second["items"]] == ["b"]
    assert second["next_cursor"] is None
    assert [(child["id"], child["waits_for"]) for child in children["items"]] == [(ids["b"], 1), (ids["c"], 2)]
    assert unknown.status_code == 404


@pytest.mark.parametrize(
    ("jobs", "fields"),
    [
        ({"a": echo(after=["b"])}, {"jobs.a.after"}),
        ({"a": echo(after=["a"])}, {"jobs.a.after"}),
        ({"a": echo(), "b": echo(after=["a", "a"])}, {"jobs.b.after"}),
        ({"a": echo(after=["c"]), "b": echo(after=["a"]), "c": echo(after=["b"])}, {f"jobs.{n}.after" for n in "abc"}),
        ({"a": echo(), "b": echo(unique_key="u")}, {"jobs.b.unique_key"}),
        ({"a": echo(), "b.c": echo()}, {"jobs.b.c"}),
        ({"a": echo(), "x" * 101: echo()}, {"jobs." + "x" * 100}),
        ({"a": echo(), "": echo()}, {"jobs."}),
        ({"a": echo(), "b": {"task": "diagnostics.sleep", "args": {"seconds": "1"}}}, {"jobs.b.args.seconds"}),
        ({"a": echo(), "b": echo(priority=10)}, {"jobs.b.priority"}),
        ({"a": echo(), "b": echo(after="a")}, {"jobs.b.after"}),
        ({"a": echo(), "b": {"task": "no.such", "args": {}}}, {"jobs.b.task"}),
        ({"a": echo(), "b": echo(delay_seconds=1, run_at="2100-01-01T00:00:00Z")}, {"jobs.b.run_at"}),
        ({"a": echo(), "b": 5}, {"jobs.b"}),
        ({}, {"jobs"}),
        ([], {"jobs"}),
    ],
)
async def test_nothing_is_on_record_when_something_is_wrong(
    api: tuple[httpx.AsyncClient, Door], jobs: object, fields: set[str]
) -> None:
    """A graph that could not be finished, or a job that could not be made, is 422 with the field by the job's name."""
    client, door = api

    answer = await client.post("/v1/workflows", json={"jobs": jobs})

    assert answer.status_code == 422, answer.text
    assert {error["field"] for error in answer.json()["errors"]} == fields
    assert await count(door) == 0


async def test_circle_is_told_when_jobs_wait_for_each_other(api: tuple[httpx.AsyncClient, Door]) -> None:
    """The message shows the way round."""
    client, _ = api

    answer = await client.post("/v1/workflows", json={"jobs": {"a": echo(after=["b"]), "b": echo(after=["a"])}})

    assert "these wait for each other: " in answer.json()["detail"]
    assert answer.json()["detail"].count("->") == 2


async def test_first_answer_is_given_again_when_a_workflow_is_repeated(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Under one `Idempotency-Key` there is one workflow."""
    client, door = api
    body, headers = {"jobs": {"a": echo(), "b": echo(after=["a"])}}, {"Idempotency-Key": "w-1"}

    first = await client.post("/v1/workflows", json=body, headers=headers)
    second = await client.post("/v1/workflows", json=body, headers=headers)

    assert second.json() == first.json()
    assert second.headers["idempotent-replay"] == "true"
    assert await count(door) == 2


async def test_ten_thousand_jobs_are_accepted_and_one_more_is_not(api: tuple[httpx.AsyncClient, Door]) -> None:
    """The bound is that of batches."""
    client, door = api
    jobs: dict[str, Any] = {"j0": echo()} | {f"j{n}": echo(after=[f"j{n - 1}"]) for n in range(1, 10_000)}

    accepted = await client.post("/v1/workflows", json={"jobs": jobs}, timeout=60)
    refused = await client.post("/v1/workflows", json={"jobs": jobs | {"more": echo()}}, timeout=60)

    assert accepted.status_code == 202
    assert refused.status_code == 422
    assert await count(door, "job_parents") == 9_999


async def test_batch_has_a_job_that_follows_when_it_asks_for_one(api: tuple[httpx.AsyncClient, Door]) -> None:
    """`then` waits for all jobs of the batch; its id is answered, and only where it was asked for."""
    client, _ = api

    answer = await client.post("/v1/jobs/batch", json={"jobs": [echo(), echo()], "then": echo(queue="reports")})
    plain = await client.post("/v1/jobs/batch", json={"jobs": [echo()]})
    body = answer.json()
    then = (await client.get(f"/v1/jobs/{body['then_id']}")).json()
    parents = (await client.get(f"/v1/jobs/{body['then_id']}/parents")).json()["items"]

    assert answer.status_code == 202
    assert (then["state"], then["queue"], then["parent_id"]) == ("scheduled", "reports", body["ids"][0])
    assert [(one["name"], one["id"], one["needs"]) for one in parents] == [
        ("0", body["ids"][0], "finished"),
        ("1", body["ids"][1], "finished"),
    ]
    assert plain.json().keys() == {"ids"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"jobs": [echo(), echo(unique_key="u")], "then": echo()}, "jobs.1.unique_key"),
        ({"jobs": [echo()], "then": echo(unique_key="u")}, "then.unique_key"),
        ({"jobs": [echo()], "then": echo(delay_seconds=1, run_at="2100-01-01T00:00:00Z")}, "then.run_at"),
        ({"jobs": [echo()], "then": echo(priority=-1)}, "then.priority"),
    ],
)
async def test_batch_is_refused_when_the_job_that_follows_is_wrong(
    api: tuple[httpx.AsyncClient, Door], body: dict[str, Any], field: str
) -> None:
    """Nothing of it is on record."""
    client, door = api

    answer = await client.post("/v1/jobs/batch", json=body)

    assert answer.status_code == 422, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert await count(door) == 0


async def test_openapi_tells_what_a_workflow_is(api: tuple[httpx.AsyncClient, Door]) -> None:
    """A job of a workflow is told apart by its task, as everywhere, and has `after`."""
    client, _ = api

    document = (await client.get("/openapi.json")).json()

    operation = document["paths"]["/v1/workflows"]["post"]
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    jobs = document["components"]["schemas"][reference]["properties"]["jobs"]
    steps = jobs["additionalProperties"]
    name = steps["discriminator"]["mapping"]["trial.order"].rpartition("/")[2]
    assert document["components"]["schemas"][name]["properties"].keys() >= {"args", "after", "priority"}


async def test_workflow_needs_the_scope_of_jobs(api: tuple[httpx.AsyncClient, Door]) -> None:
    """A workflow is made of jobs: a key that may make these may start it, and one that may only read may not."""
    client, door = api
    answers = []
    for scope in ("jobs:write", "jobs:read"):
        _, key = await create_key(door.record, "w", [scope])
        headers = {"Authorization": f"Bearer {key}"}
        answers.append(await client.post("/v1/workflows", json={"jobs": {"a": echo()}}, headers=headers))

    assert [answer.status_code for answer in answers] == [202, 403]
