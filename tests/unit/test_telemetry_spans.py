"""The spans of the road: which are emitted, with which kind, parent, links and attributes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from headrace.telemetry import edges, names, propagation, spans
from headrace.telemetry.messages import LIVE_SECONDS, Batch, Message
from tests.kept_spans import keep_spans

EVENT_ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SAMPLED = f"00-{TRACE}-00f067aa0ba902b7-01"
UNSAMPLED = f"00-{TRACE}-00f067aa0ba902b7-02"


class Event(msgspec.Struct, frozen=True):
    """What is told of an event."""

    id: UUID
    type: str
    source: str
    subject: str | None


class Call(msgspec.Struct, frozen=True):
    """What is told of a call."""

    task: str
    queue: str


CREATED = Event(EVENT_ID, "orders.order.created", "storefront", "order-1")


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """Everything that this process records from here on."""
    return keep_spans()


@pytest.fixture
def recorded(exporter: InMemorySpanExporter) -> Iterator[InMemorySpanExporter]:
    """The spans of this test alone."""
    exporter.clear()
    yield exporter
    exporter.clear()


def only(recorded: InMemorySpanExporter) -> ReadableSpan:
    """Return the one span."""
    (span,) = recorded.get_finished_spans()
    return span


def trace_of(span: ReadableSpan) -> str:
    """Return the hex trace id of a span."""
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def test_create_is_a_producer_below_the_request_when_an_event_is_published(recorded: InMemorySpanExporter) -> None:
    """One event's span says everything that CloudEvents and the messaging conventions ask for."""
    with edges.serve("POST", None) as request, spans.create([CREATED]) as created:
        edges.routed(request, "POST", "/v1/orders/{id}/confirm")

    child, parent = recorded.get_finished_spans()
    assert (parent.name, parent.kind) == ("POST /v1/orders/{id}/confirm", SpanKind.SERVER)
    assert (child.name, child.kind) == ("create orders", SpanKind.PRODUCER)
    assert child.parent is not None
    assert propagation.traceparent_of(child.parent) == request.traceparent
    assert created.trace_id == request.trace_id
    assert dict(child.attributes or {}) == {
        "messaging.system": "redis",
        "messaging.operation.name": "create",
        "messaging.operation.type": "create",
        "messaging.destination.name": "orders",
        "messaging.message.id": str(EVENT_ID),
        "messaging.message.conversation_id": "order-1",
        "cloudevents.event_id": str(EVENT_ID),
        "cloudevents.event_source": "storefront",
        "cloudevents.event_type": "orders.order.created",
        "cloudevents.event_subject": "order-1",
    }


def test_enqueue_names_queue_task_and_job_when_a_job_is_written(recorded: InMemorySpanExporter) -> None:
    """The span of an enqueued job carries the id that the record gave it."""
    with spans.enqueue([Call("shop.greet", "mail")]) as scope:
        spans.enqueued(scope, [EVENT_ID])

    span = only(recorded)
    assert (span.name, span.kind) == ("send tasks.mail", SpanKind.PRODUCER)
    assert span.attributes is not None
    assert span.attributes["messaging.message.id"] == str(EVENT_ID)
    assert span.attributes["headrace.task.name"] == "shop.greet"


def test_enqueue_counts_instead_of_naming_when_it_is_a_batch(recorded: InMemorySpanExporter) -> None:
    """A batch of ten thousand jobs is one span with their number."""
    with spans.enqueue([Call("shop.greet", "mail")] * 3) as scope:
        spans.enqueued(scope, [EVENT_ID] * 3)

    span = only(recorded)
    assert span.attributes is not None
    assert span.attributes["messaging.batch.message_count"] == 3
    assert "messaging.message.id" not in span.attributes


def test_send_is_a_root_linked_to_the_creators_when_some_are_sampled(recorded: InMemorySpanExporter) -> None:
    """The relay's span has a trace of its own and links to those creators whose trace somebody keeps."""
    batch = Batch("orders", [UNSAMPLED, SAMPLED, None, "nonsense"], lane=2)

    with spans.send(batch):
        pass

    span = only(recorded)
    assert (span.name, span.kind, span.parent) == ("send orders", SpanKind.CLIENT, None)
    assert [propagation.traceparent_of(link.context) for link in span.links] == [SAMPLED]
    assert span.attributes is not None
    assert span.attributes["messaging.batch.message_count"] == 4
    assert span.attributes["messaging.destination.partition.id"] == "2"


def test_send_links_to_128_when_the_batch_is_larger(recorded: InMemorySpanExporter) -> None:
    """More links than the SDK keeps are not even made."""
    with spans.send(Batch("orders", [SAMPLED] * 500)):
        pass

    assert len(only(recorded).links) == spans.LINKS == 128


@pytest.mark.parametrize("created", [[], [UNSAMPLED] * 10, [None]])
def test_nothing_is_recorded_when_no_trace_of_a_batch_is(recorded: InMemorySpanExporter, created: list[str]) -> None:
    """An empty poll and an unsampled batch leave no span at any step."""
    batch = Batch("orders", created, lane=0, group="shop.welcome")

    with spans.send(batch), spans.dispatch(batch), spans.acknowledge(batch), spans.process_batch(batch):
        received = spans.receive(batch, since_ns=time.time_ns())

    assert received is None
    assert recorded.get_finished_spans() == ()


def test_process_is_a_child_with_links_when_the_message_is_live(recorded: InMemorySpanExporter) -> None:
    """The first live handling continues its creator's trace and links to creator and receive."""
    received = spans.receive(Batch("orders", [SAMPLED], group="shop.welcome"), since_ns=time.time_ns())
    message = Message(EVENT_ID, SAMPLED, age_seconds=0.01, linked=(received,))

    with spans.process("orders", message, group="shop.welcome"):
        pass

    read, span = recorded.get_finished_spans()
    assert (read.name, read.kind, read.parent) == ("receive orders", SpanKind.CLIENT, None)
    assert (span.name, span.kind, trace_of(span)) == ("process orders", SpanKind.CONSUMER, TRACE)
    assert span.parent is not None
    assert propagation.traceparent_of(span.parent) == SAMPLED
    assert [propagation.traceparent_of(link.context) for link in span.links] == [SAMPLED, received]
    assert span.attributes is not None
    assert span.attributes[names.MESSAGING_GROUP] == "shop.welcome"


@pytest.mark.parametrize(
    "message",
    [
        Message(EVENT_ID, SAMPLED, attempt=2),
        Message(EVENT_ID, SAMPLED, replay=True),
        Message(EVENT_ID, SAMPLED, age_seconds=LIVE_SECONDS + 1),
    ],
    ids=["retry", "replay", "old"],
)
def test_run_is_a_root_with_a_link_when_the_message_is_not_live(
    recorded: InMemorySpanExporter, message: Message
) -> None:
    """A retry, a replay and a late first run begin a trace of their own that leads back to the creator."""
    with spans.run("default", message, task="shop.greet"):
        pass

    span = only(recorded)
    assert (span.name, span.parent) == ("process tasks.default", None)
    assert trace_of(span) != TRACE
    assert [propagation.traceparent_of(link.context) for link in span.links] == [SAMPLED]


def test_ids_pass_on_without_a_span_when_the_creator_is_not_sampled(recorded: InMemorySpanExporter) -> None:
    """An unsampled trace costs nothing, and what is made in it still stores and logs its id."""
    with (
        spans.run("default", Message(EVENT_ID, UNSAMPLED), task="shop.greet") as scope,
        spans.create([CREATED]) as made,
    ):
        inside = propagation.trace_id_now()

    assert inside == scope.trace_id == TRACE
    assert made.traceparent == UNSAMPLED
    assert propagation.trace_id_now() == ""
    assert recorded.get_finished_spans() == ()


def test_a_scope_is_failed_when_an_exception_leaves_it(recorded: InMemorySpanExporter) -> None:
    """The exception goes on, and the span names its type."""
    with pytest.raises(ConnectionError), spans.run("default", Message("x", SAMPLED), task="shop.greet"):
        raise ConnectionError

    span = only(recorded)
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == "ConnectionError"


def test_tick_links_to_the_run_before_when_there_was_one(recorded: InMemorySpanExporter) -> None:
    """A schedule's runs are traces of their own, chained by links."""
    with spans.tick("shop.nightly", datetime(2026, 1, 1, 3, tzinfo=UTC), previous=SAMPLED):
        pass

    span = only(recorded)
    assert (span.name, span.kind, span.parent) == ("process cron.shop.nightly", SpanKind.CONSUMER, None)
    assert len(span.links) == 1


def test_edges_hide_person_and_credentials_when_they_call_out(recorded: InMemorySpanExporter) -> None:
    """No address, password or query leaves by a span, and an answer 500 is a failure."""
    with edges.mail("mx.example", 25, recipient="ada@example.org"):
        pass
    with edges.call("POST", "https://user:secret@warehouse.example/orders?token=1", resend_count=2) as scope:
        edges.answered_to_us(scope, 500)

    mail, call = recorded.get_finished_spans()
    told = f"{mail.name} {dict(mail.attributes or {})} {call.name} {dict(call.attributes or {})}"
    assert "ada@" not in told
    assert "secret" not in told
    assert "token" not in told
    assert (mail.name, call.name, call.kind) == ("smtp.send", "POST", SpanKind.CLIENT)
    assert call.status.status_code is StatusCode.ERROR
    assert call.attributes is not None
    assert call.attributes["url.full"] == "https://warehouse.example:443/orders"
    assert call.attributes["http.request.resend_count"] == 2


@pytest.mark.parametrize(("status", "failed"), [(200, False), (404, False), (503, True)])
def test_a_request_fails_when_we_answer_5xx(recorded: InMemorySpanExporter, status: int, failed: bool) -> None:  # noqa: FBT001 - pytest passes parameters by name
    """A caller's mistake is not our failure."""
    with edges.serve("GET", SAMPLED) as scope:
        edges.answered_by_us(scope, status)

    span = only(recorded)
    assert trace_of(span) == TRACE
    assert (span.status.status_code is StatusCode.ERROR) is failed
