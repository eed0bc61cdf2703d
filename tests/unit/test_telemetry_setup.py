"""The set-up of a process: who it says it is, and what leaves it, and when."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, ParentBased
from opentelemetry.trace import Link

from headrace.telemetry import propagation
from headrace.telemetry.setup import SHUTDOWN_SECONDS, LinkedSampler
from tests.otlp import Collector, collector

SCRIPT = """
import os, sys
from headrace.telemetry import edges, setup, spans
from headrace.telemetry.messages import Message

if "fork" in sys.argv and os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
telemetry = setup.configure("worker")
with edges.serve("POST", None) as request:
    created = request.traceparent
with spans.run("default", Message("1", created, attempt=2), task="shop.greet") as scope:
    print(created, scope.traceparent)
sys.stdout.flush()
telemetry.shutdown()
os._exit(0)
"""
SAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def run(*arguments: str, **variables: str) -> list[str]:
    """Run the script in a process with these OpenTelemetry variables and return the traceparents that it printed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", SCRIPT, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=clean | variables,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize("arguments", [(), ("fork",)], ids=["as started", "in a forked child"])
def test_spans_reach_the_collector_when_an_endpoint_is_set(arguments: tuple[str, ...]) -> None:
    """A process that ends in good order has sent everything, as the service of its role."""
    with collector() as kept:
        run(*arguments, **kept.environment)

        arrived = kept.wait_for(lambda spans: len(spans) == 2)

    assert {span.service for span in arrived} == {"headrace-worker"}
    request, retry = sorted(arrived, key=lambda span: span.name)
    assert (request.name, request.kind, request.parent_id) == ("POST", "SERVER", "")
    assert (retry.name, retry.kind, retry.parent_id) == ("process tasks.default", "CONSUMER", "")
    assert retry.links == ((request.trace_id, request.span_id),)


def test_the_given_service_name_wins_when_otel_names_one() -> None:
    """OpenTelemetry's own variables outrank ours."""
    with collector() as kept:
        run(**kept.environment, OTEL_SERVICE_NAME="shop")

        arrived = kept.wait_for(lambda spans: len(spans) == 2)

    assert {span.service for span in arrived} == {"shop"}


def ids_without_spans(kept: Collector, **variables: str) -> None:
    """Assert that a process with these variables has ids and sends nothing."""
    for traceparent in run(**variables):
        assert propagation.trace_id_of(traceparent)
    assert kept.spans == []


def test_ids_exist_and_nothing_is_sent_when_tracing_is_turned_off() -> None:
    """Without an endpoint, disabled, or never sampled: every trace id is still there for the record."""
    with collector() as kept:
        ids_without_spans(kept)
        ids_without_spans(kept, **kept.environment, OTEL_SDK_DISABLED="true")
        ids_without_spans(kept, **kept.environment, OTEL_TRACES_SAMPLER="always_off")
        ids_without_spans(kept, **kept.environment, OTEL_TRACES_EXPORTER="none")


def test_a_process_ends_soon_when_the_collector_is_away() -> None:
    """Spans that nobody takes are dropped; the process does not hang on them."""
    with collector() as gone:
        endpoint = gone.endpoint
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}

    begun = time.monotonic()

    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        check=False,
        timeout=20,
        env=clean | {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint},
    )

    assert done.returncode == 0
    assert time.monotonic() - begun < SHUTDOWN_SECONDS + 3


def test_a_root_is_sampled_when_it_links_to_a_sampled_span() -> None:
    """The trace of a retry is kept together with the trace of what it retries, and only then."""
    sampler = LinkedSampler(ParentBased(ALWAYS_OFF))
    linked = propagation.link_to(SAMPLED)
    assert isinstance(linked, Link)

    alone = sampler.should_sample(Context(), 1, "process")
    retry = sampler.should_sample(Context(), 1, "process", links=[linked])

    assert (alone.decision, retry.decision) == (Decision.DROP, Decision.RECORD_AND_SAMPLE)
