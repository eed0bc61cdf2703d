"""The trace context as it is stored and carried: a W3C `traceparent` string.

Owns reading and writing it (https://www.w3.org/TR/trace-context/, level 2). What cannot be read is treated as absent,
so that a stranger's header never fails a request. Vendors' `tracestate` and baggage are not carried.
Never rewrite the context stored with an event or a job: it names where the message was created, whatever happened
since.
"""

from __future__ import annotations

import re
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_FLAGS: Final = {f"{flags:02x}": TraceFlags(flags) for flags in range(256)}
_LONGEST: Final = 512
_IDS: Final = RandomIdGenerator()


def parse(traceparent: str | None) -> SpanContext | None:
    """Return the remote span that a traceparent names, None where it is absent or malformed."""
    if not traceparent or len(traceparent) > _LONGEST:
        return None
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest is not None):
        return None
    context = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=_FLAGS[flags])
    return context if context.is_valid else None


def traceparent_of(context: SpanContext) -> str:
    """Return the traceparent of a span."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def new_root() -> SpanContext:
    """Return the context of an unsampled root that nobody records: ids exist even where tracing is off."""
    return SpanContext(_IDS.generate_trace_id(), _IDS.generate_span_id(), is_remote=False)


def current_traceparent() -> str:
    """Return the traceparent of the current span; outside any span that of a new unsampled root, each time another."""
    context = get_current_span().get_span_context()
    return traceparent_of(context if context.is_valid else new_root())


def trace_id_of(traceparent: str | None) -> str:
    """Return the 32 hex digits of the trace that a traceparent names, "" where it is absent or malformed."""
    context = parse(traceparent)
    return "" if context is None else f"{context.trace_id:032x}"


def trace_id_now() -> str:
    """Return the 32 hex digits of the current trace, "" outside any span."""
    context = get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""


def is_sampled(traceparent: str | None) -> bool:
    """Tell whether the trace that a traceparent names is recorded (bit 0 of its flags)."""
    context = parse(traceparent)
    return context is not None and context.trace_flags.sampled


def context_of(traceparent: str | None) -> Context:
    """Return a context whose parent span is the one named; an empty context where it is absent or malformed."""
    parent = parse(traceparent)
    return Context() if parent is None else set_span_in_context(NonRecordingSpan(parent), Context())


def link_to(traceparent: str | None) -> Link | None:
    """Return a link to the span that a traceparent names, None where it is absent or malformed."""
    context = parse(traceparent)
    return None if context is None else Link(context)
