"""`headrace api` as a process: it serves, is traced, shares its work with another one, and ends in order."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection

import asyncpg
import httpx
import pytest

from headrace.stack.ports import free_port
from tests.otlp import collector

pytestmark = pytest.mark.processes

ECHO = {"task": "diagnostics.echo", "args": {"value": 1}}
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def environment(database_url: str, redis_url: str, port: int) -> dict[str, str]:
    """Return what a process is given."""
    own = {
        "HEADRACE_DATABASE_URL": database_url,
        "HEADRACE_REDIS_URL": redis_url,
        "HEADRACE_API_KEY": "secret",
        "HEADRACE_APPLICATIONS": "storefront.application:application",
        "HEADRACE_PORT": str(port),
    }
    return {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "OTEL_"))} | own


def start(variables: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start an API process."""
    command = (sys.executable, "-m", "headrace.cli", "api")
    return subprocess.Popen(command, env=dict(variables), stderr=subprocess.PIPE, text=True)  # noqa: S603 - our own command


@contextmanager
def serving(variables: Mapping[str, str]) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """Run an API process, and lend a client once it answers."""
    process = start(variables)
    headers = {"Authorization": "Bearer secret"}
    with httpx.Client(base_url=f"http://127.0.0.1:{variables['HEADRACE_PORT']}", headers=headers, timeout=30) as client:
        try:
            wait_until_it_answers(process, client)
            yield process, client
        finally:
            process.terminate()
            process.communicate(timeout=30)


def wait_until_it_answers(process: subprocess.Popen[str], client: httpx.Client) -> None:
    """Fail unless the process answers in time."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            client.get("/health/live")
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(f"the API does not answer: {process.poll()}")


async def somebody_waits(database_url: str) -> None:
    """Return when a process looks for the end of a job for somebody; fail if none does in time."""
    connection = await asyncpg.connect(database_url)
    looks = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%waited(id)%' AND pid <> pg_backend_pid()"
    async with asyncio.timeout(10):
        while not await connection.fetchval(looks):
            await asyncio.sleep(0.02)
    await connection.close()


def test_request_is_traced_when_a_process_serves_it(database_url: str, redis_url: str) -> None:
    """The span continues the caller's trace, is named by the template, and is the parent of the job's."""
    with collector() as kept:
        variables = environment(database_url, redis_url, free_port()) | kept.environment
        with serving(variables) as (_, client):
            made = client.post("/v1/jobs", json=ECHO, headers={"traceparent": CALLER})
            client.get(f"/v1/jobs/{made.json()['id']}")
            spans = kept.wait_for(lambda found: len([span for span in found if span.kind == "SERVER"]) > 2)

    (post,) = [span for span in spans if span.name == "POST /v1/jobs"]
    (send,) = [span for span in spans if span.name == "send tasks.default"]
    (get,) = [span for span in spans if span.name == "GET /v1/jobs/{job_id}"]
    assert made.headers["trace-id"] == post.trace_id == made.json()["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert (post.kind, post.parent_id, post.attributes["http.route"]) == ("SERVER", "b7ad6b7169203331", "/v1/jobs")
    assert post.attributes["http.response.status_code"] == 202
    assert (send.kind, send.parent_id, send.attributes["messaging.message.id"]) == (
        "PRODUCER",
        post.span_id,
        made.json()["id"],
    )
    assert get.parent_id == ""


def test_processes_answer_the_same_when_two_run(database_url: str, redis_url: str) -> None:
    """Nothing is held by one process that another would miss: a repeat may go to either."""
    first, second = (environment(database_url, redis_url, free_port()) for _ in range(2))
    once = {"Idempotency-Key": "k"}
    with serving(first) as (_, one), serving(second) as (_, other):
        made = one.post("/v1/jobs", json=ECHO, headers=once)
        again = other.post("/v1/jobs", json=ECHO, headers=once)
        found = other.get(made.headers["location"])

    assert again.content == made.content
    assert found.json()["id"] == made.json()["id"]


def test_process_ends_in_order_when_it_is_told_to(database_url: str, redis_url: str) -> None:
    """SIGTERM lets those that wait for a job go at once, and the exit code is 0."""
    with (
        serving(environment(database_url, redis_url, free_port())) as (process, client),
        ThreadPoolExecutor() as threads,
    ):
        job = client.post("/v1/jobs", json=ECHO).json()
        waiting = threads.submit(client.get, f"/v1/jobs/{job['id']}?wait_seconds=60")
        asyncio.run(somebody_waits(database_url))
        process.send_signal(signal.SIGTERM)
        answer = waiting.result(timeout=10)
        _, errors = process.communicate(timeout=10)

    assert (answer.status_code, answer.json()["state"]) == (200, "pending")
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


def test_connection_stays_open_when_head_was_asked_for(database_url: str, redis_url: str) -> None:
    """The server knows that HEAD has no body: the next request goes over the same connection."""
    variables = environment(database_url, redis_url, free_port())
    with serving(variables) as (process, _):
        connection = HTTPConnection("127.0.0.1", int(variables["HEADRACE_PORT"]), timeout=10)
        connection.auto_open = 0  # a connection that the server has closed is not silently made again
        connection.connect()
        lengths = []
        for method in ("HEAD", "HEAD", "GET"):
            connection.request(method, "/health/live")
            answer = connection.getresponse()
            lengths.append((answer.getheader("content-length"), len(answer.read())))
        connection.close()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)

    size = lengths[-1][1]
    assert size > 0
    assert lengths == [(str(size), 0), (str(size), 0), (str(size), size)]
    assert "Traceback" not in errors


def test_process_refuses_to_start_when_the_port_is_taken(database_url: str, redis_url: str) -> None:
    """A taken port is a configuration error of one line."""
    variables = environment(database_url, redis_url, free_port())
    with serving(variables):
        second = start(variables)
        _, errors = second.communicate(timeout=30)

    assert second.returncode == 2
    assert f"cannot listen on 127.0.0.1:{variables['HEADRACE_PORT']}" in errors.splitlines()[-1]
