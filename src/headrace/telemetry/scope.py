"""One span that is current for the time of a `with` block.

Owns `Scope` and the two ways to get one: `start` asks the tracer, `passing` only hands on the ids of a trace that is
not recorded. Ten thousand messages a second pass here unsampled, so that way starts no span and builds no attributes.
An exception that leaves the block marks the span as failed and goes on. Without a configured provider ids are made up,
unsampled.
Never share a scope between tasks, and never leave one from another task than the one that entered it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import Token
from types import TracebackType
from typing import Final, Self

import msgspec
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import (
    INVALID_SPAN,
    INVALID_SPAN_CONTEXT,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    get_tracer,
    set_span_in_context,
)

from headrace.telemetry import names
from headrace.telemetry.propagation import new_root, parse, traceparent_of

Attribute = str | int | float | bool
_TRACER: Final = get_tracer(names.INSTRUMENTATION)
_NOWHERE: Final = Context()


class Scope:
    """A span, current inside `with`, ended after it."""

    __slots__ = ("_context", "_span", "_token")

    def __init__(self, span: Span, context: Context | None) -> None:
        # `context` becomes current inside `with`; None leaves the current one
        self._span = span
        self._context = context
        self._token: Token[Context] | None = None

    def __enter__(self) -> Self:
        """Make the span current."""
        if self._context is not None:
            self._token = attach(self._context)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Make the former span current again and end this one, as failed where an exception passes."""
        if self._token is not None:
            detach(self._token)
        if error is not None:
            self.failed(error)
        self._span.end()

    @property
    def traceparent(self) -> str:
        """The context to store with what is made here."""
        return traceparent_of(self._span.get_span_context())

    @property
    def trace_id(self) -> str:
        """The 32 hex digits of the trace."""
        return f"{self._span.get_span_context().trace_id:032x}"

    @property
    def recording(self) -> bool:
        """Whether anybody will see this span: ask before preparing costly attributes."""
        return self._span.is_recording()

    def rename(self, name: str) -> None:
        """Give the span the name that is only known by now."""
        self._span.update_name(name)

    def set(self, name: str, value: Attribute) -> None:
        """Set one attribute."""
        self._span.set_attribute(name, value)

    def event(self, name: str, attributes: Mapping[str, Attribute]) -> None:
        """Add an event to the span; any thread may."""
        self._span.add_event(name, attributes)

    def failed(self, error: BaseException) -> None:
        """Mark the span as failed by an exception that somebody has already dealt with."""
        if self._span.is_recording():
            self._span.record_exception(error)
            self.failed_as(type(error).__qualname__, str(error))

    def failed_as(self, error_type: str, description: str = "") -> None:
        """Mark the span as failed by something that is no exception, such as an answer 500."""
        self._span.set_attribute(names.ERROR_TYPE, error_type)
        self._span.set_status(Status(StatusCode.ERROR, description))


class Start(msgspec.Struct, frozen=True):
    """How a span begins: below `parent` (None: the current span), with links, at `at_ns` (None: now)."""

    parent: Context | None = None
    links: Sequence[Link] = ()
    at_ns: int | None = None


BELOW_CURRENT: Final = Start()


def at_root(links: Sequence[Link] = (), at_ns: int | None = None) -> Start:
    """Return the beginning of a new trace."""
    return Start(parent=_NOWHERE, links=links, at_ns=at_ns)


def start(name: str, kind: SpanKind, attributes: Mapping[str, Attribute], begin: Start = BELOW_CURRENT) -> Scope:
    """Start a span, recorded if the sampler says so."""
    span = _TRACER.start_span(
        name, context=begin.parent, kind=kind, attributes=attributes, links=begin.links, start_time=begin.at_ns
    )
    if not span.get_span_context().is_valid:
        span = NonRecordingSpan(new_root())
    return Scope(span, set_span_in_context(span, begin.parent))


def passing(context: SpanContext) -> Scope:
    """Return a scope that makes the ids of a trace current which is not recorded."""
    span = NonRecordingSpan(context)
    return Scope(span, set_span_in_context(span, _NOWHERE))


def passing_by(traceparent: str) -> Scope:
    """Do as `passing`; the ids are read when somebody asks for them, which the handling of most messages never does."""
    span = _Unrecorded(traceparent)
    return Scope(span, set_span_in_context(span, _NOWHERE))


class _Unrecorded(NonRecordingSpan):
    """The span that a traceparent names."""

    def __init__(self, traceparent: str) -> None:
        self._traceparent = traceparent

    def get_span_context(self) -> SpanContext:
        return parse(self._traceparent) or INVALID_SPAN_CONTEXT


def staying(span: Span = INVALID_SPAN) -> Scope:
    """Return a scope that changes nothing: `span` is current already and not recorded, or there is none."""
    return Scope(span, None)
