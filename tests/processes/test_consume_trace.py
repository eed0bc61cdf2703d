"""One event's trace over three processes, as a collector receives it."""

from __future__ import annotations

import asyncpg
import pytest

from headrace.database.record import open_record
from headrace.settings import Settings
from tests.event_road import starting
from tests.lanes import registered
from tests.otlp import Received, collector
from tests.programs.event_road import effects, folded

pytestmark = pytest.mark.processes

EXPECTED = ("create tests", "send tests", "receive tests", "process tests", "send tasks.headrace", "ack tests")


def named(spans: list[Received], name: str) -> list[Received]:
    """Return the spans of that name."""
    return [span for span in spans if span.name == name]


def complete(spans: list[Received]) -> bool:
    """Tell whether every step of the event has been received."""
    names = {span.name for span in spans}
    return names.issuperset(EXPECTED) and len(named(spans, "process tests")) == 2


async def test_steps_are_linked_when_an_event_passes_three_processes(database_url: str, redis_url: str) -> None:
    """Creation, relay, read, handling, failure and acknowledgement lead to one another; idle polls leave none."""
    settings = Settings(database_url=database_url, redis_url=redis_url)
    driver = await asyncpg.connect(database_url)
    await driver.execute("CREATE TABLE effects (place bigserial, by text, key text, number int)")
    await driver.close()
    async with open_record(settings) as record:
        await registered(record, effects, folded)
    with collector() as received, starting(settings, received.environment) as start:
        for role in ("relay", "consume"):
            start(role)
        start("publish")

        spans = received.wait_for(complete, timeout_seconds=30.0)

    (create,) = named(spans, "create tests")
    handled = next(span for span in named(spans, "process tests") if span.parent_id)
    projected = next(span for span in named(spans, "process tests") if not span.parent_id)
    (job,) = named(spans, "send tasks.headrace")
    origin = (create.trace_id, create.span_id)
    assert {span.name for span in spans} == set(EXPECTED)
    assert (create.kind, handled.kind, projected.kind) == ("PRODUCER", "CONSUMER", "CONSUMER")
    assert (handled.trace_id, handled.parent_id) == origin
    assert handled.failed
    assert (job.trace_id, job.parent_id) == (handled.trace_id, handled.span_id)
    assert handled.attributes["messaging.consumer.group.name"] == effects.name
    for span in (
        handled,
        projected,
        *(s for name in ("send", "receive", "ack") for s in named(spans, f"{name} tests")),
    ):
        assert origin in span.links, span.name
