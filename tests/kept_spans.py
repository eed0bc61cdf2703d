"""The spans that this process records, kept in memory: for what a span says, not for how it travels.

Owns the setting-up of tracing in a test's process. Ask once for a module, and clear what was kept before.
Never prove by these that spans leave a process: that is `tests.otlp`'s.
"""

from __future__ import annotations

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import get_tracer_provider

from headrace.telemetry import setup


def keep_spans() -> InMemorySpanExporter:
    """Keep every span that this process records from here on."""
    setup.configure("test")
    provider = get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    memory = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    return memory
