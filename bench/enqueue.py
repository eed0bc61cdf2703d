"""Enqueueing: what one `kiq` takes, and ten thousand jobs at once.

Owns three measurements. A lone `kiq` returns when its job is committed; relay and worker run meanwhile and work the
jobs off. A batch is ten thousand jobs, in one statement and one transaction, from `tx.enqueue_calls` to the end of the
commit, and through `POST /v1/jobs/batch` from the request to its answer; nobody works them off meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from http import HTTPStatus

import msgspec

from bench.doors import KEY, answers
from bench.drain import worker_command
from bench.load import Load, request, send
from bench.producer import Order, produce
from bench.receiver import receiving
from bench.stage import Stage, connected
from headrace.stack.ports import free_port
from headrace.stack.readiness import until

_START_SECONDS = 30.0
_WARM = 50
"""Calls that only see to it that connections are open and statements prepared."""
_WORKING = "SELECT count(DISTINCT role) FROM processes WHERE role IN ('worker', 'relay') AND expires_at > now()"


class Enqueued(msgspec.Struct, frozen=True):
    """Seconds of each lone `kiq`, of each batch in a transaction, and of each batch over HTTP."""

    lone: list[float]
    batches: list[float]
    posted: list[float]


async def measure_enqueue(stage: Stage, *, lone: int, batches: int, batch: int) -> Enqueued:
    """Measure the three; the first call of each only warms up."""
    with receiving() as receiver:
        tracing = receiver.environment
        with ExitStack() as stack:
            environment = stage.environment(**tracing)
            stack.enter_context(stage.running("worker", *worker_command(1), environment=environment))
            stack.enter_context(stage.running("relay", "headrace.cli", "relay", environment=environment))
            await until_working(stage)
            taken = (await produce(stage, Order(lone=_WARM + lone), tracing)).lone[_WARM:]
        together = (await produce(stage, Order(batches=1 + batches, batch=batch), tracing)).batches[1:]
        return Enqueued(taken, together, await _posted(stage, 1 + batches, batch, tracing))


async def until_working(stage: Stage) -> None:
    """Wait until a relay and a worker are there."""

    async def working() -> bool:
        async with connected(stage) as connection:
            return bool(await connection.fetchval(_WORKING) == 2)

    assert await until(working, _START_SECONDS), "relay and worker did not start"


async def _posted(stage: Stage, batches: int, batch: int, tracing: Mapping[str, str]) -> list[float]:
    port = free_port()
    environment = stage.environment(HEADRACE_PORT=str(port), HEADRACE_API_KEY=KEY, **tracing)
    jobs = [{"task": "diagnostics.echo", "args": {"value": number}} for number in range(batch)]
    body = request("POST", "/v1/jobs/batch", body=msgspec.json.encode({"jobs": jobs}), key=KEY)
    with stage.running("api", "headrace.cli", "api", environment=environment):
        assert await until(lambda: answers(port, "/health/ready"), _START_SECONDS), "the API did not start"
        load = Load(port, [body], HTTPStatus.ACCEPTED, repeat=batches, connections=1)
        return (await send(stage, load)).waits[1:]
