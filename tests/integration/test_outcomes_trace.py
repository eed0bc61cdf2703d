"""The span of an attempt says what became of it."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from headrace import diagnostics
from headrace.application import combine
from headrace.jobs.call import Call, Options
from headrace.telemetry import names
from tests import outcomes, trial
from tests.kept_spans import keep_spans
from tests.road import Road, relaying, working

REGISTRY = combine([diagnostics.application, trial.application, outcomes.application])
ONCE = Options(max_attempts=1)


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """Everything that this process records from here on."""
    return keep_spans()


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (trial.add.call(1), ("succeeded", StatusCode.UNSET, None)),
        (trial.write.call("a"), ("succeeded", StatusCode.UNSET, None)),
        (trial.fail.options(ONCE).call("value"), ("failed", StatusCode.ERROR, "ValueError")),
        (trial.overdue.options(ONCE).call(), ("timed_out", StatusCode.ERROR, "TimeoutError")),
        (trial.give.call("object"), ("rejected", StatusCode.ERROR, "TypeError")),
        (outcomes.cancel.call("gone"), ("cancelled", StatusCode.UNSET, None)),
        (outcomes.snooze.call(0), ("succeeded", StatusCode.UNSET, None)),
    ],
    ids=lambda value: value.task if isinstance(value, Call) else "",
)
async def test_span_says_what_became_of_an_attempt(
    road: Road, exporter: InMemorySpanExporter, call: Call, told: tuple[str, StatusCode, str | None]
) -> None:
    """Also where the session settles it, and where the task has raised nothing."""
    wider = Road(road.settings, REGISTRY, road.resources, road.redis, road.driver)
    async with relaying(road.settings), working(wider):
        (job_id,) = await road.enqueue(call)
        await road.finished(job_id)

    span = processed(exporter, str(job_id))
    attributes = span.attributes or {}
    assert (attributes.get(names.OUTCOME), span.status.status_code, attributes.get(names.ERROR_TYPE)) == told


def processed(exporter: InMemorySpanExporter, job_id: str) -> ReadableSpan:
    """Return the one span in which a job was run."""
    (span,) = [
        one
        for one in exporter.get_finished_spans()
        if one.name.startswith("process") and (one.attributes or {}).get(names.MESSAGING_MESSAGE_ID) == job_id
    ]
    return span
