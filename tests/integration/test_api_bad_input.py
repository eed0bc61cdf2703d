"""Bad input gets a problem that names the field, and never a 500."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from headrace.settings import Settings
from tests.integration.api_road import KEY, open_api

ECHO = {"task": "diagnostics.echo", "args": {"value": 1}}
LINES = {"order_id": "o1", "items": [{"sku": "a", "quantity": 1}, {"sku": "b", "quantity": "2"}]}
HAPPENED = {"specversion": "1.0", "id": "1", "source": "/test", "type": "trial.thing.happened", "data": {"thing": "x"}}


SINGLE = {"Content-Type": "application/cloudevents+json"}
BATCH = {"Content-Type": "application/cloudevents-batch+json"}

BODIES: list[tuple[bytes, int]] = [
    (b"{", 400),
    (b"nope", 400),
    (b"", 400),
    (b'{"task":"diagnostics.echo","args":{"value":"\xff"}}', 400),
    (b'{"task":"diagnostics.echo","args":{"value":"\\ud800"}}', 400),
    (b'{"task":"diagnostics.echo","args":{"value":NaN}}', 400),
    (b'{"task":"diagnostics.echo","args":{"value":' + b"[" * 90_000 + b"]" * 90_000 + b"}}", 400),
    (b'{"task":"diagnostics.echo","args":{"value":"' + b"a" * 2_000_000 + b'"}}', 413),
]


JOBS: list[tuple[dict[str, object], str]] = [
    ({"task": "no.such"}, "task"),
    ({"task": 3}, "task"),
    ({"args": {}}, "args.value"),
    ({"args": []}, "args"),
    ({"args": {"value": 1, "more": 2}}, "args.more"),
    ({"args": {"value": "a\x00b"}}, "args.value"),
    ({"args": {"value": {"deep": ["\x00"]}}}, "args.value.deep.0"),
    ({"task": "trial.order", "args": LINES}, "args.items.1.quantity"),
    ({"priority": 10}, "priority"),
    ({"priority": -1}, "priority"),
    ({"priority": "5"}, "priority"),
    ({"queue": "no spaces"}, "queue"),
    ({"queue": ""}, "queue"),
    ({"delay_seconds": -1}, "delay_seconds"),
    ({"delay_seconds": 1, "run_at": "2030-01-01T00:00:00Z"}, "run_at"),
    ({"run_at": "2030-01-01T00:00:00"}, "run_at"),
    ({"run_at": "tomorrow"}, "run_at"),
    ({"expires_at": "0001-01-01T00:00:00Z"}, "expires_at"),
    ({"max_attempts": 0}, "max_attempts"),
    ({"unique_key": ""}, "unique_key"),
    ({"unique_key": "u" * 201}, "unique_key"),
    ({"tags": "one"}, "tags"),
    ({"tags": ["\x00"]}, "tags.0"),
    ({"unknown": 1}, "unknown"),
]


LISTINGS: list[tuple[str, str]] = [
    ("/v1/jobs?limit=0", "limit"),
    ("/v1/jobs?limit=201", "limit"),
    ("/v1/jobs?limit=many", "limit"),
    ("/v1/jobs?cursor=%25%25", "cursor"),
    ("/v1/jobs?cursor=bm9wZQ==", "cursor"),
    ("/v1/jobs?state=odd", "state"),
    ("/v1/jobs?task=%00", "task"),
    ("/v1/tasks?limit=0", "limit"),
    ("/v1/queues?limit=0", "limit"),
    ("/v1/workers?limit=0", "limit"),
    ("/v1/event-types?limit=0", "limit"),
    ("/v1/subscriptions?limit=0", "limit"),
    ("/v1/events?limit=0", "limit"),
    ("/v1/events?from_time=yesterday", "from_time"),
    ("/v1/events?from_time=2026-01-01T00:00:00", "from_time"),
    ("/v1/events?from_time=0001-01-01T00:00:00Z", "from_time"),
    ("/v1/events?subject=%00", "subject"),
    ("/v1/events?type=%00", "type"),
    ("/v1/events/%00", "event_id"),
    ("/v1/jobs/01a1fb8a-e730-7000-849e-43982bb4b325?wait_seconds=61", "wait_seconds"),
    ("/v1/jobs/01a1fb8a-e730-7000-849e-43982bb4b325?wait_seconds=nan", "wait_seconds"),
]


NOWHERE: list[tuple[str, str, int]] = [
    ("GET", "/nowhere", 404),
    ("GET", "/v1/jobs/none", 404),
    ("GET", "/v1/jobs/01a1fb8a-e730-7000-849e-43982bb4b325", 404),
    ("GET", "/v1/jobs/01a1fb8a-e730-7000-849e-43982bb4b325/explain", 404),
    ("POST", "/v1/jobs/01a1fb8a-e730-7000-849e-43982bb4b325/cancel", 404),
    ("POST", "/v1/jobs/01a1fb8a-e730-7000-849e-43982bb4b325/retry", 404),
    ("POST", "/v1/queues/none/pause", 404),
    ("GET", "/v1/events/none", 404),
    ("DELETE", "/v1/jobs", 405),
    ("PUT", "/v1/tasks", 405),
]


EVENTS: list[tuple[dict[str, object], str]] = [
    ({"source": "not a uri"}, "source"),
    ({"source": "1a:b"}, "source"),
    ({"data_base64": "AA=="}, "data_base64"),
    ({"specversion": "0.3"}, "specversion"),
    ({"id": ""}, "id"),
    ({"source": None}, "source"),
    ({"type": "no.such.thing"}, "type"),
    ({"data": {"thing": 3}}, "data.thing"),
    ({"data": {}}, "data.thing"),
    ({"data": {"thing": "\x00"}}, "data.thing"),
    ({"data": {"thing": "x" * 300_000}}, "data"),
    ({"subject": ""}, "subject"),
    ({"subject": "\x00"}, "subject"),
    ({"time": "noon"}, "time"),
    ({"time": "2026-01-01T00:00:00"}, "time"),
    ({"time": "0001-01-01T00:00:00+14:00"}, "time"),
    ({"datacontenttype": "text/xml"}, "datacontenttype"),
    ({"data_base64": "AA=="}, "data_base64"),
    ({"Upper": "x"}, "Upper"),
    ({"nested": {"a": 1}}, "nested"),
]


EVENT_BODIES: list[tuple[str, str, int]] = [
    ("{}", "text/plain", 415),
    ("[", "application/cloudevents-batch+json", 400),
    ("[]", "application/cloudevents-batch+json", 422),
    ("[3]", "application/cloudevents-batch+json", 422),
    ("[]", "application/cloudevents+json", 422),
    (json.dumps(HAPPENED | {"data": {"thing": "x" * 1_100_000}}), "application/cloudevents+json", 413),
    (json.dumps([HAPPENED] * 1001), "application/cloudevents-batch+json", 422),
]


@pytest.fixture
async def client(database_url: str, redis_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API."""
    async with open_api(Settings(database_url=database_url, redis_url=redis_url, api_key=KEY)) as (opened, _):
        yield opened


async def test_body_is_refused_when_it_is_no_json_or_too_large(client: httpx.AsyncClient) -> None:
    """What cannot be read is 400, what is too large is 413, as a problem with the trace's id."""
    answers = [
        await client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"}) for body, _ in BODIES
    ]

    assert [answer.status_code for answer in answers] == [status for _, status in BODIES]
    for answer in answers:
        problem = answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["status"] == answer.status_code
        assert problem["trace_id"] == answer.headers["trace-id"]
        assert {"type", "title", "detail"} <= problem.keys()


async def test_job_is_refused_when_its_arguments_are_too_large(client: httpx.AsyncClient) -> None:
    """One byte over 256 KiB is 413 and names the field, alone, in a batch and in a workflow; nothing is on record."""
    large = ECHO | {"args": {"value": "x" * 256 * 1024}}

    alone = await client.post("/v1/jobs", json=large)
    batch = await client.post("/v1/jobs/batch", json={"jobs": [ECHO, large]})
    workflow = await client.post("/v1/workflows", json={"jobs": {"a": large}})

    fields = [answer.json()["errors"][0]["field"] for answer in (alone, batch, workflow)]
    assert [answer.status_code for answer in (alone, batch, workflow)] == [413] * 3
    assert fields == ["args", "jobs.1.args", "jobs.a.args"]
    assert (await client.get("/v1/jobs")).json()["items"] == []


async def test_job_is_refused_when_a_value_is_wrong(client: httpx.AsyncClient) -> None:
    """JSON of another shape or value is 422 and names the field."""
    answers = [await client.post("/v1/jobs", json=ECHO | changes) for changes, _ in JOBS]

    assert {answer.status_code for answer in answers} == {422}
    assert [answer.json()["errors"][0]["field"] for answer in answers] == [field for _, field in JOBS]
    assert (await client.get("/v1/jobs")).json()["items"] == []


@pytest.mark.parametrize(
    ("content_type", "status"),
    [("application/x-www-form-urlencoded", 415), ("text/plain", 415), ("Application/JSON; charset=utf-8", 202)],
)
async def test_job_is_refused_when_its_body_is_said_to_be_no_json(
    client: httpx.AsyncClient, content_type: str, status: int
) -> None:
    """Who says nothing, or JSON, is heard; anything else is 415."""
    said = await client.post("/v1/jobs", content=json.dumps(ECHO), headers={"Content-Type": content_type})
    silent = await client.post("/v1/jobs", content=json.dumps(ECHO).encode())

    assert (said.status_code, silent.status_code) == (status, 202)


async def test_batch_is_refused_whole_when_one_job_is_wrong(client: httpx.AsyncClient) -> None:
    """A wrong job is named by its place, and no job of the batch is accepted."""
    answer = await client.post(
        "/v1/jobs/batch", json={"jobs": [ECHO, ECHO | {"delay_seconds": 1, "run_at": "2030-01-01T00:00:00Z"}]}
    )

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "jobs.1.run_at"
    assert (await client.get("/v1/jobs")).json()["items"] == []


async def test_batch_is_refused_when_it_has_none_or_too_many(client: httpx.AsyncClient) -> None:
    """A batch has 1 to 10,000 jobs."""
    answers = [await client.post("/v1/jobs/batch", json={"jobs": jobs}) for jobs in ([], [ECHO] * 10_001)]

    assert [answer.status_code for answer in answers] == [422, 422]
    assert [answer.json()["errors"][0]["field"] for answer in answers] == ["jobs", "jobs"]


async def test_listing_is_refused_when_a_parameter_is_wrong(client: httpx.AsyncClient) -> None:
    """A wrong parameter is 422 and named as in the query."""
    answers = [await client.get(path) for path, _ in LISTINGS]

    assert {answer.status_code for answer in answers} == {422}
    assert [answer.json()["errors"][0]["field"] for answer in answers] == [field for _, field in LISTINGS]


async def test_problem_is_answered_when_nothing_is_there(client: httpx.AsyncClient) -> None:
    """Unknown paths and ids are 404, other methods 405, as problems with the trace's id."""
    answers = [await client.request(method, path) for method, path, _ in NOWHERE]

    assert [answer.status_code for answer in answers] == [status for _, _, status in NOWHERE]
    for answer in answers:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["trace_id"] == answer.headers["trace-id"]


async def test_event_is_refused_when_a_value_is_wrong(client: httpx.AsyncClient) -> None:
    """A malformed CloudEvent is 422 and names the attribute; in a batch by its place, and nothing is accepted."""
    for changes, field in EVENTS:
        one = await client.post("/v1/events", content=json.dumps(HAPPENED | changes), headers=SINGLE)
        many = await client.post("/v1/events", content=json.dumps([HAPPENED, HAPPENED | changes]), headers=BATCH)

        assert (one.status_code, many.status_code) == (422, 422), one.text + many.text
        assert one.json()["errors"][0]["field"] == field
        assert many.json()["errors"][0]["field"] == f"1.{field}"
    assert (await client.get("/v1/events")).json()["items"] == []


async def test_events_are_refused_when_the_body_is_wrong(client: httpx.AsyncClient) -> None:
    """The content type decides what a body must be, and each limit has its status."""
    answers = [
        await client.post("/v1/events", content=content, headers={"Content-Type": content_type})
        for content, content_type, _ in EVENT_BODIES
    ]

    assert [answer.status_code for answer in answers] == [status for _, _, status in EVENT_BODIES]
