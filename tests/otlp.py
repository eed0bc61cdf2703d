"""A collector for tests: takes spans by OTLP over HTTP, as a real collector does, and keeps them.

Owns the receiver and `Trace`, by which a test asks for the tree that arrived. Give its `endpoint` to a process as
`OTEL_EXPORTER_OTLP_ENDPOINT`, with a short `OTEL_BSP_SCHEDULE_DELAY`, and wait for what must come.
Never look at the SDK's own objects to prove a trace: what counts is what left the process.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import msgspec
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

_PATH: Final = "/v1/traces"


class Received(msgspec.Struct, frozen=True):
    """One span that arrived; ids are hex, `parent_id` is "" for a root, `kind` is SERVER, CLIENT and so on."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    links: tuple[tuple[str, str], ...]
    attributes: dict[str, object]
    failed: bool
    started_ns: int
    ended_ns: int
    events: tuple[tuple[str, dict[str, object]], ...] = ()


class Collector:
    """What arrived so far."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._spans: list[Received] = []
        self._changed = threading.Condition()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make a process send its spans here, soon."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}

    @property
    def spans(self) -> list[Received]:
        """Every span, in the order of arrival."""
        with self._changed:
            return list(self._spans)

    def add(self, spans: Iterable[Received]) -> None:
        """Keep spans and wake who waits."""
        with self._changed:
            self._spans.extend(spans)
            self._changed.notify_all()

    def wait_for(self, what: Callable[[list[Received]], bool], *, timeout_seconds: float = 15.0) -> list[Received]:
        """Wait until `what` holds for the spans that arrived and return them; fail with their names otherwise."""
        with self._changed:
            if not self._changed.wait_for(lambda: what(self._spans), timeout_seconds):
                names = sorted({f"{span.service}: {span.name} ({span.kind})" for span in self._spans})
                message = f"not within {timeout_seconds} s; these came: {names}"
                raise TimeoutError(message)
            return list(self._spans)


@contextmanager
def collector() -> Iterator[Collector]:
    """Run a collector on a free port of the loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    kept = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    _Handler.collectors[server.server_address[1]] = kept
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        del _Handler.collectors[server.server_address[1]]


class _Handler(BaseHTTPRequestHandler):
    collectors: Final[dict[int, Collector]] = {}

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path != _PATH:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        request = ExportTraceServiceRequest.FromString(body)
        self.collectors[self.connection.getsockname()[1]].add(_spans_of(request))
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that http.server calls it by
        """Say nothing: the test says what is missing."""


def _spans_of(request: ExportTraceServiceRequest) -> Iterator[Received]:
    for resource in request.resource_spans:
        service = str(_attributes(resource.resource.attributes).get("service.name", ""))
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield _received(service, span)


def _received(service: str, span: trace_pb2.Span) -> Received:
    return Received(
        service=service,
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        attributes=_attributes(span.attributes),
        failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        started_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        events=tuple((event.name, _attributes(event.attributes)) for event in span.events),
    )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, object]:
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in pairs}
