"""What a process does once, at its start, so that it can be seen.

Owns the tracer provider: ids are always produced; spans leave by OTLP over HTTP only where
`OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set. All of OpenTelemetry's standard variables
count (sampler, headers, batching, resource).
Configure in the process that does the work: after a fork, not before it, because the exporter is a thread.
A collector that is away costs spans, never work: they wait in a bounded queue and are dropped.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points, version
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState, get_current_span
from opentelemetry.util.types import Attributes

from headrace.telemetry import names

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_EXPORTER: Final = "OTEL_TRACES_EXPORTER"


SHUTDOWN_SECONDS: Final = 2.0
"""How long a process that ends waits for the collector."""


class Telemetry:
    """The tracing of this process; `shutdown` sends what is still waiting."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self.tracer = provider.get_tracer(names.INSTRUMENTATION)

    def shutdown(self) -> None:
        """Send the spans that still wait and stop; blocks for at most `SHUTDOWN_SECONDS`, then drops them.

        The SDK's own shutdown goes on trying for ten seconds where the collector is away, and it has no limit to set.
        """
        ending = threading.Thread(target=self._provider.shutdown, name="telemetry-shutdown", daemon=True)
        ending.start()
        ending.join(SHUTDOWN_SECONDS)


class LinkedSampler(Sampler):
    """Samples a root that links to a sampled span; leaves everything else to `rest`.

    A retry or a replay is a new root: without this rule the trace that shows the failure would keep, and the ones that
    show how it went on would lose nine of ten (the pattern of OpenTelemetry .NET's links-based sampler).
    """

    def __init__(self, rest: Sampler) -> None:
        self._rest = rest

    def should_sample(  # noqa: PLR0913, PLR0917 - the signature of OpenTelemetry's Sampler
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Decide for one span."""
        sampler = self._rest
        is_root = not get_current_span(parent_context).get_span_context().is_valid
        if is_root and links and any(link.context.trace_flags.sampled for link in links):
            sampler = ALWAYS_ON
        return sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        """Return how OpenTelemetry names this sampler."""
        return f"LinkedSampler{{{self._rest.get_description()}}}"


def configure(role: str, environment: Mapping[str, str] = os.environ) -> Telemetry:
    """Install the tracer provider of this process as `headrace-<role>`; `OTEL_SERVICE_NAME` wins.

    Call it once per process. A second call shares what the first installed (several roles in one process, as in tests).
    """
    installed = trace.get_tracer_provider()
    if isinstance(installed, TracerProvider):
        return Telemetry(installed)
    provider = TracerProvider(resource=_resource(role), shutdown_on_exit=False)
    provider.sampler = LinkedSampler(provider.sampler)
    if _exports(environment):
        provider.add_span_processor(BatchSpanProcessor(_exporter()))
    trace.set_tracer_provider(provider)
    telemetry = Telemetry(provider)
    atexit.register(telemetry.shutdown)
    return telemetry


def _resource(role: str) -> Resource:
    chosen = OTELResourceDetector().detect().attributes.get(SERVICE_NAME)
    return Resource.create(
        {SERVICE_NAME: chosen or f"headrace-{role}", SERVICE_VERSION: version("headrace"), names.ROLE: role}
    )


def _exporter() -> SpanExporter:
    """Load the exporter by its entry point, as OpenTelemetry does: 6 MB that only those pay who send spans."""
    (found,) = entry_points(group="opentelemetry_traces_exporter", name="otlp_proto_http")
    exporter: SpanExporter = found.load()()
    return exporter


def _exports(environment: Mapping[str, str]) -> bool:
    wanted = environment.get(_EXPORTER, "otlp").strip().lower() in {"", "otlp"}
    return wanted and any(environment.get(name, "").strip() for name in _ENDPOINTS)
