"""The trace collector of the sink: takes OTLP over HTTP and remembers the latest traces.

Owns the reading of `ExportTraceServiceRequest` (protobuf, perhaps gzipped) and the memory of the last 2,000 traces. A
span that an exporter sends twice is kept once. What is forgotten is forgotten: a deployment has a real collector.
Never keep traces on disk. Source: https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator

import msgspec
from google.protobuf.message import DecodeError  # type: ignore[import-untyped] # protobuf publishes no types
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan

from headrace.errors import InvalidInputError

_KEPT_TRACES = 2_000
_LARGEST_BATCH = 64_000_000
# opentelemetry/proto/trace/v1/trace.proto: SpanKind and Status.StatusCode
_KINDS = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}
_STATUSES = {1: "ok", 2: "error"}

Value = str | bool | int | float | list["Value"] | None


class SpanLink(msgspec.Struct, frozen=True):
    """Another span that has to do with this one; ids are hex."""

    trace_id: str
    span_id: str


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A span; `start` and `end` are seconds since 1970, a root's `parent_id` is "", `status` is unset, ok or error."""

    name: str
    kind: str
    service: str
    trace_id: str
    span_id: str
    parent_id: str
    links: tuple[SpanLink, ...]
    start: float
    end: float
    attributes: dict[str, Value]
    status: str
    status_message: str


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A trace in one line."""

    trace_id: str
    name: str
    services: tuple[str, ...]
    spans: int
    start: float
    seconds: float
    failed: bool


class Traces:
    """The latest traces, each a mapping from span id to span."""

    def __init__(self, kept: int = _KEPT_TRACES) -> None:
        self._kept = kept
        self._traces: OrderedDict[str, dict[str, Span]] = OrderedDict()

    def take(self, body: bytes, encoding: str) -> None:
        """Remember the spans of an export.

        Raises:
            InvalidInputError: it is not one, or too large.

        """
        for span in _spans(_decoded(body, encoding)):
            self._traces.setdefault(span.trace_id, {})[span.span_id] = span
            self._traces.move_to_end(span.trace_id)
        while len(self._traces) > self._kept:
            self._traces.popitem(last=False)

    def trace(self, trace_id: str) -> list[Span]:
        """Return the spans of a trace by their start; none where it is unknown."""
        return sorted(self._traces.get(trace_id, {}).values(), key=lambda span: (span.start, span.end))

    def summaries(self, limit: int) -> list[Summary]:
        """Return the traces that changed last."""
        latest = list(reversed(self._traces))[:limit]
        return [_summary(trace_id, self.trace(trace_id)) for trace_id in latest]


def _decoded(body: bytes, encoding: str) -> ExportTraceServiceRequest:
    try:
        plain = _unzipped(body) if encoding == "gzip" else body
        request = ExportTraceServiceRequest()
        request.ParseFromString(plain)
    except (zlib.error, DecodeError) as error:
        message = "not an OTLP export of traces in protobuf"
        raise InvalidInputError(message) from error
    return request


def _unzipped(body: bytes) -> bytes:
    unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)  # 16: with the header of gzip
    plain = unzip.decompress(body, _LARGEST_BATCH)
    if unzip.unconsumed_tail:
        message = f"the export has more than {_LARGEST_BATCH} bytes"
        raise InvalidInputError(message)
    return plain


def _spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in request.resource_spans:
        service = _service_of(resource)
        for scope in resource.scope_spans:
            yield from (_span(span, service) for span in scope.spans if span.trace_id and span.span_id)


def _service_of(resource: ResourceSpans) -> str:
    return str(_attributes(resource.resource.attributes).get("service.name", ""))


def _span(span: WireSpan, service: str) -> Span:
    return Span(
        name=span.name,
        kind=_KINDS.get(span.kind, "unspecified"),
        service=service,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        links=tuple(SpanLink(link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        start=span.start_time_unix_nano / 1e9,
        end=span.end_time_unix_nano / 1e9,
        attributes=_attributes(span.attributes),
        status=_STATUSES.get(span.status.code, "unset"),
        status_message=span.status.message,
    )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Value]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Value:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    if kind in {"bytes_value", "kvlist_value"}:
        return str(value).strip()
    scalar: Value = getattr(value, kind) if kind else None
    return scalar


def _summary(trace_id: str, spans: list[Span]) -> Summary:
    start, end = min(span.start for span in spans), max(span.end for span in spans)
    root = next((span for span in spans if not span.parent_id), spans[0])
    return Summary(
        trace_id=trace_id,
        name=root.name,
        services=tuple(dict.fromkeys(span.service for span in spans)),
        spans=len(spans),
        start=start,
        seconds=end - start,
        failed=any(span.status == "error" for span in spans),
    )
