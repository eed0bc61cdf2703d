"""The sink as its users meet it: a mail server, a warehouse and a trace collector in a process of their own."""

from __future__ import annotations

import asyncio
import base64
import gzip
import os
import sys
from collections.abc import AsyncIterator
from email.message import EmailMessage
from pathlib import Path

import aiosmtplib
import httpx
import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from headrace.clock import now
from headrace.signing import sign
from headrace.stack.ports import free_port
from headrace.stack.program import Program
from headrace.stack.readiness import until
from tests.servers import running

SECRET = "whsec_" + base64.b64encode(b"a secret of this test").decode()
FORGED = "whsec_" + base64.b64encode(b"another").decode()
HOSTILE = "<script>alert('x')</script>"
TRACE, PARENT, SPAN = bytes(range(1, 17)), bytes(range(1, 9)), bytes(range(2, 10))


class Sink(msgspec.Struct):
    """A running sink."""

    http: httpx.AsyncClient
    smtp_port: int

    async def send(self, message: EmailMessage, *, recipients: list[str]) -> None:
        """Send a mail as an application does."""
        await aiosmtplib.send(message, hostname="127.0.0.1", port=self.smtp_port, recipients=recipients)

    async def order(self, key: str, body: bytes = b'{"order_id": "o-1"}', secret: str = SECRET) -> httpx.Response:
        """Call the warehouse as storefront does."""
        headers = sign(secret, message_id=key, timestamp=now(), body=body) | {"Idempotency-Key": key}
        return await self.http.post("/warehouse/orders", content=body, headers=headers)


@pytest.fixture
async def sink(tmp_path: Path) -> AsyncIterator[Sink]:
    """A sink that keeps its files in `tmp_path`."""
    smtp_port, http_port = free_port(), free_port()
    arguments = (str(tmp_path), str(smtp_port), str(http_port))
    program = Program(
        name="sink",
        command=(sys.executable, "-m", "headrace.stack.sink", *arguments),
        environment={"PATH": os.defpath, "HEADRACE_WAREHOUSE_SECRET": SECRET},
    )
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{http_port}") as http:
        with running(program, tmp_path / "sink.log"):
            assert await until(lambda: answers(http), timeout_seconds=20), (tmp_path / "sink.log").read_text()
            yield Sink(http, smtp_port)


async def answers(http: httpx.AsyncClient) -> bool:
    """Tell whether the sink is up."""
    try:
        return (await http.get("/mails")).is_success
    except httpx.TransportError:
        return False


def invoice_mail() -> EmailMessage:
    """Return a mail with hostile text in every place, and an attachment."""
    message = EmailMessage()
    message["From"] = "Shop <shop@example.com>"
    message["To"] = "Ada <ada@example.com>"
    message["Subject"] = f"Größe {HOSTILE}"
    message.set_content(f"Hello Ada,\n{HOSTILE}\n")
    message.add_attachment(b"%PDF-1.4 an invoice", maintype="application", subtype="pdf", filename=f"{HOSTILE}.pdf")
    return message


async def test_mail_is_shown_and_kept_when_it_was_sent(sink: Sink, tmp_path: Path) -> None:
    """A mail is listed with its envelope, text and attachment, and kept as .eml."""
    await sink.send(invoice_mail(), recipients=["ada@example.com", "hidden@example.com"])

    [mail] = (await sink.http.get("/mails")).json()
    saved = await sink.http.get(mail["attachments"][0]["url"])

    assert (mail["from"], mail["to"]) == ("Shop <shop@example.com>", ["ada@example.com", "hidden@example.com"])
    assert mail["subject"] == f"Größe {HOSTILE}"
    assert mail["text"].splitlines() == ["Hello Ada,", HOSTILE]
    assert saved.content == b"%PDF-1.4 an invoice"
    assert saved.headers["content-disposition"].startswith("attachment;")
    assert len(list((tmp_path / "mail").glob("*.eml"))) == 1


async def test_page_escapes_when_what_arrived_is_hostile(sink: Sink) -> None:
    """Nothing that was sent becomes markup of the page."""
    await sink.send(invoice_mail(), recipients=["<ada@example.com>"])
    await sink.order(key=HOSTILE, body=msgspec.json.encode({"order_id": HOSTILE}))

    page = (await sink.http.get("/")).text

    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 4


async def test_warehouse_has_one_effect_when_an_order_is_repeated(sink: Sink) -> None:
    """A repeated key gets the first receipt, and the repeat is counted; another key is another effect."""
    first, again, other = await sink.order("k-1"), await sink.order("k-1"), await sink.order("k-2")

    receipts = (await sink.http.get("/warehouse/receipts")).json()

    assert (first.status_code, again.status_code, other.status_code) == (200, 200, 200)
    assert first.json()["receipt_id"] == again.json()["receipt_id"] != other.json()["receipt_id"]
    assert {receipt["idempotency_key"]: receipt["duplicates"] for receipt in receipts} == {"k-1": 1, "k-2": 0}
    assert first.json()["order_id"] == "o-1"


async def test_warehouse_has_one_effect_when_calls_come_together(sink: Sink) -> None:
    """Ten calls with one key at once are one effect."""
    answers = await asyncio.gather(*(sink.order("k-1") for _ in range(10)))

    [receipt] = (await sink.http.get("/warehouse/receipts")).json()

    assert {answer.json()["receipt_id"] for answer in answers} == {receipt["receipt_id"]}
    assert receipt["duplicates"] == 9


async def test_warehouse_refuses_when_the_call_is_wrong(sink: Sink) -> None:
    """Another secret, no signature, no key, or no order: 400, and no receipt."""
    forged = await sink.order("k-1", secret=FORGED)
    unsigned = await sink.http.post("/warehouse/orders", content=b'{"order_id": "o-1"}')
    without_key = await sink.order("")
    not_an_order = await sink.order("k-2", body=b"[\xff")

    receipts = (await sink.http.get("/warehouse/receipts")).json()

    assert {forged.status_code, unsigned.status_code, without_key.status_code, not_an_order.status_code} == {400}
    assert receipts == []


def export() -> bytes:
    """Return an OTLP export of a failed client span with a link, under a parent that is elsewhere."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.append(KeyValue(key="service.name", value=AnyValue(string_value="headrace-worker")))
    span = resource.scope_spans.add().spans.add()
    span.trace_id, span.span_id, span.parent_span_id = TRACE, SPAN, PARENT
    span.name, span.kind = f"POST {HOSTILE}", 3
    span.start_time_unix_nano, span.end_time_unix_nano = 1_700_000_000_000_000_000, 1_700_000_000_250_000_000
    span.attributes.append(KeyValue(key="http.response.status_code", value=AnyValue(int_value=503)))
    link = span.links.add()
    link.trace_id, link.span_id = TRACE[::-1], PARENT[::-1]
    span.status.code, span.status.message = 2, "away"
    return bytes(request.SerializeToString())


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_trace_is_given_back_when_it_was_exported(sink: Sink, encoding: str) -> None:
    """An export, plain or gzipped, and sent twice, is one span with everything it had."""
    body = gzip.compress(export()) if encoding == "gzip" else export()
    headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": encoding}
    for _ in range(2):
        taken = await sink.http.post("/v1/traces", content=body, headers=headers)

    trace = (await sink.http.get(f"/traces/{TRACE.hex()}")).json()
    page = (await sink.http.get(f"/traces/{TRACE.hex()}/page")).text

    [span] = trace["spans"]
    assert taken.status_code == 200
    assert (span["name"], span["kind"], span["service"]) == (f"POST {HOSTILE}", "client", "headrace-worker")
    assert (span["parent_id"], span["span_id"]) == (PARENT.hex(), SPAN.hex())
    assert span["links"] == [{"trace_id": TRACE[::-1].hex(), "span_id": PARENT[::-1].hex()}]
    assert span["end"] - span["start"] == pytest.approx(0.25, abs=1e-5)
    assert span["attributes"] == {"http.response.status_code": 503}
    assert (span["status"], span["status_message"]) == ("error", "away")
    assert "<script" not in page


async def test_traces_refuse_when_the_export_is_garbage(sink: Sink) -> None:
    """What is no export is answered with 400, and an unknown trace with 404."""
    garbage = await sink.http.post("/v1/traces", content=b"\xff\xff\xff")
    not_gzip = await sink.http.post("/v1/traces", content=b"plain", headers={"Content-Encoding": "gzip"})
    unknown = await sink.http.get(f"/traces/{'0' * 32}")

    assert (garbage.status_code, not_gzip.status_code, unknown.status_code) == (400, 400, 404)
