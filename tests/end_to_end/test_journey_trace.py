"""One request, one trace: what a collector receives of a confirmed order, from the answer to the last side effect."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.end_to_end.shopping import Confirmed, Shopper
from tests.otlp import Collector, Received, collector
from tests.stacks import running_stack


@pytest.fixture(scope="module")
def received() -> Iterator[Collector]:
    """A real OTLP receiver."""
    with collector() as running:
        yield running


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory, received: Collector) -> Confirmed:
    """A confirmed and fulfilled order whose spans have all arrived, on a stack that has ended since."""
    with running_stack(tmp_path_factory.mktemp("traced") / "stack", environment=received.environment) as stack:
        shopper = Shopper(stack)
        confirmed = shopper.confirm_new_order()
        shopper.wait_until_fulfilled(confirmed.order_id)
    return confirmed


@pytest.fixture
def spans(order: Confirmed, received: Collector) -> list[Received]:
    """The spans of the confirmation's trace."""
    return [span for span in received.spans if span.trace_id == order.trace_id]


def only(spans: list[Received], *, name: str, service: str, **attributes: object) -> Received:
    """Return the one span of this name and service with these attributes (`.` written as `__`)."""
    wanted = {key.replace("__", "."): value for key, value in attributes.items()}
    found = [
        span
        for span in spans
        if (span.name, span.service) == (name, service) and wanted.items() <= span.attributes.items()
    ]
    assert len(found) == 1, f"{len(found)} of {name}: {[(s.service, s.name, s.attributes) for s in spans]}"
    return found[0]


def ancestors(span: Received, spans: list[Received]) -> list[str]:
    """Return the names of the spans above, nearest first."""
    by_id = {one.span_id: one for one in spans}
    names = []
    while span.parent_id in by_id:
        span = by_id[span.parent_id]
        names.append(span.name)
    return names


def test_mail_hangs_below_the_request_when_an_order_is_confirmed(spans: list[Received]) -> None:
    """From the mail upwards: run, enqueue, delivery, event, run, enqueue, delivery, event, request."""
    mail = only(spans, name="smtp.send", service="headrace-worker")

    above = ancestors(mail, spans)

    assert above == [
        "process tasks.default",
        "send tasks.default",
        "process orders",
        "create orders",
        "process tasks.default",
        "send tasks.default",
        "process orders",
        "create orders",
        "POST /v1/orders/{order_id}/confirm",
    ]
    assert mail.kind == "CLIENT"
    assert mail.attributes["network.protocol.name"] == "smtp"


def test_warehouse_call_hangs_below_the_request_when_an_order_is_confirmed(spans: list[Received]) -> None:
    """The signed call is a CLIENT span with the HTTP conventions' attributes."""
    call = only(spans, name="POST", service="headrace-worker")

    above = ancestors(call, spans)

    assert above[-1] == "POST /v1/orders/{order_id}/confirm"
    assert call.kind == "CLIENT"
    assert call.attributes["http.request.method"] == "POST"
    assert call.attributes["http.response.status_code"] == httpx.codes.OK


def test_kinds_follow_the_messaging_conventions_when_an_order_is_confirmed(spans: list[Received]) -> None:
    """The request is SERVER, what is created PRODUCER, what is processed CONSUMER with a link to its creator."""
    (request,) = [span for span in spans if span.service == "headrace-api" and span.kind == "SERVER"]
    created = [span for span in spans if span.name.startswith(("create ", "send "))]
    processed = [span for span in spans if span.name.startswith("process ")]

    assert request.attributes["http.route"] == "/v1/orders/{order_id}/confirm"
    assert {span.kind for span in created} == {"PRODUCER"}
    assert {span.kind for span in processed} == {"CONSUMER"}
    assert all((span.trace_id, span.parent_id) in span.links for span in processed)
    assert all(span.attributes["messaging.system"] == "redis" for span in created + processed)
    assert not any(span.failed for span in spans)


def test_carriers_link_to_what_they_carry_when_an_order_is_confirmed(
    order: Confirmed, received: Collector, spans: list[Received]
) -> None:
    """The relay's batches are traces of their own, with links to the spans that created what they moved."""
    moved = [
        span
        for span in received.spans
        if span.service == "headrace-relay" and any(trace_id == order.trace_id for trace_id, _ in span.links)
    ]

    names = {span.name.split(" ")[0] for span in moved}
    linked = {span_id for span in moved for trace_id, span_id in span.links if trace_id == order.trace_id}

    assert names == {"send", "dispatch"}
    assert {span.kind for span in moved} == {"CLIENT"}
    assert linked <= {span.span_id for span in spans}


def test_no_span_comes_from_polling_when_nothing_happens(received: Collector, order: Confirmed) -> None:
    """Every span that arrived belongs to a request, to a message or to the clock; none to an empty poll."""
    assert order.trace_id
    names = {span.name.split(" ")[0] for span in received.spans}

    assert names <= {"GET", "POST", "PUT", "create", "send", "dispatch", "receive", "process", "ack", "smtp.send"}
    for span in received.spans:
        if span.name.startswith(("receive ", "send ", "ack ")):
            assert int(str(span.attributes.get("messaging.batch.message_count", 1))) >= 1
