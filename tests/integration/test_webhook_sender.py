"""The safe sender against real servers: name servers that change their minds, and servers that mean harm."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest
import trustme
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from headrace.errors import InvalidInputError
from headrace.settings import Settings
from headrace.webhooks.addresses import Address
from headrace.webhooks.names import open_names
from headrace.webhooks.sender import Answer, NoAnswerError, Reason, Sender, open_sender
from tests.hostile import OK, Server, dripping, running, saying
from tests.kept_spans import keep_spans
from tests.names import NameServer, Zone, running_names

BODY = b'{"specversion":"1.0"}'
HEADERS = {"content-type": "application/cloudevents+json", "webhook-id": "msg_1"}
PUBLIC = "93.184.215.14"


@pytest.fixture(scope="module")
def spans() -> InMemorySpanExporter:
    """What this process records."""
    return keep_spans()


@asynccontextmanager
async def sending(
    zone: Zone, permits: Callable[[Address], bool] | None = None, trust: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Sender, NameServer]]:
    """Run a sender that asks a name server of ours, with the addresses of production unless told."""
    async with (
        running_names(zone) as names,
        open_names(("127.0.0.1",), port=names.port) as look_up,
        open_sender(Settings(), look_up=look_up, permits=permits, trust=trust) as sender,
    ):
        yield sender, names


@asynccontextmanager
async def trusting() -> AsyncIterator[Sender]:
    """Run a sender that may call loopback."""
    async with open_sender(Settings(webhook_allow_private=True)) as sender:
        yield sender


def second_is_public(address: Address) -> bool:
    """Take 127.0.0.2 and 127.0.0.3 for the Internet, and the rest for our own network."""
    return address in {ip_address("127.0.0.2"), ip_address("127.0.0.3")}


async def post(sender: Sender, url: str, timeout_seconds: float = 5.0) -> Answer:
    """Send a small event."""
    return await sender.post(url, BODY, HEADERS, timeout_seconds=timeout_seconds)


async def refusal(sender: Sender, url: str, timeout_seconds: float = 5.0) -> Reason:
    """Return why a call had no answer."""
    with pytest.raises(NoAnswerError) as nothing:
        await post(sender, url, timeout_seconds)
    return nothing.value.reason


async def test_nothing_is_connected_when_a_name_is_rebound_after_the_check() -> None:
    """Public while the webhook is made, 127.0.0.1 when it is called."""
    zone = {"hook.example": {"A": [[PUBLIC], ["127.0.0.1"]]}}
    async with running(saying(OK)) as victim, sending(zone) as (sender, names):
        await sender.check(f"http://hook.example:{victim.port}/")
        reason = await refusal(sender, f"http://hook.example:{victim.port}/")

    assert reason is Reason.refused_address
    assert names.asked["hook.example", "A"] == 2
    assert victim.connections == 0


async def test_connection_goes_where_the_vetted_answer_said_when_the_next_one_differs() -> None:
    """One lookup for one connection: a second would be answered with the address of a victim."""
    zone = {"hook.example": {"A": [["127.0.0.2"], ["127.0.0.1"]]}}
    async with (
        running(saying(OK), host="127.0.0.2") as outside,
        running(saying(OK), port=outside.port) as victim,
        sending(zone, second_is_public) as (sender, names),
    ):
        url = f"http://hook.example:{outside.port}/"
        first = await post(sender, url)
        asked = names.asked["hook.example", "A"]
        second = await refusal(sender, url)

    assert (first.status, asked, second) == (200, 1, Reason.refused_address)
    assert (outside.connections, victim.connections) == (1, 0)


async def test_kept_connection_is_used_again_without_a_lookup() -> None:
    """It leads to the address that was vetted, whatever the name means by now."""
    zone = {"hook.example": {"A": [["127.0.0.2"], ["127.0.0.1"]]}}
    async with (
        running(saying(OK), host="127.0.0.2", keeps=True) as outside,
        sending(zone, second_is_public) as (sender, names),
    ):
        for _ in range(3):
            await post(sender, f"http://hook.example:{outside.port}/")

    assert (outside.connections, len(outside.requests), names.asked["hook.example", "A"]) == (1, 3, 1)


@pytest.mark.parametrize(
    "kinds",
    [
        {"A": [[PUBLIC, "127.0.0.1"]]},
        {"A": [["127.0.0.1", PUBLIC]]},
        {"A": [[PUBLIC]], "AAAA": [["::1"]]},
        {"A": [["10.0.0.1"]], "AAAA": [["2606:4700:4700::1111"]]},
        {"AAAA": [["::ffff:127.0.0.1"]]},
        {"AAAA": [["64:ff9b::7f00:1"]]},
        {"A": [["169.254.169.254"]]},
        {"A": [["0.0.0.0"]]},  # noqa: S104 - refused, not bound
        {"CNAME": [["inside.example"]]},
        {"A": [[f"93.184.215.{number}" for number in range(1, 70)]]},
    ],
)
async def test_name_is_refused_when_any_of_its_addresses_is(kinds: dict[str, list[list[str]]]) -> None:
    """All answers count: both families, behind aliases, and not too many of them; none is told to who asked."""
    zone = {"hook.example": kinds, "inside.example": {"A": [["192.168.1.1"]]}}
    async with sending(zone) as (sender, _):
        with pytest.raises(NoAnswerError) as refused:
            await post(sender, "http://hook.example/")

    assert refused.value.reason is Reason.refused_address
    assert not any(address in str(refused.value) for address in ("192.168", "127.0", "10.0", "::1", PUBLIC))


async def test_creation_is_refused_when_a_name_is_private_today() -> None:
    """422 for `url`, as for an address; a name that does not exist yet is taken."""
    zone = {"inside.example": {"A": [["192.168.1.1"]]}, "hook.example": {"CNAME": [["inside.example"]]}}
    async with sending(zone) as (sender, _):
        target = await sender.check("https://later.example/", field="webhook.url")
        with pytest.raises(InvalidInputError) as refused:
            await sender.check("https://hook.example/", field="webhook.url")

    assert target.host == "later.example"
    assert refused.value.errors[0].field == "webhook.url"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "2130706433", "0x7f.1", "127.1", "[::ffff:7f00:1]", "localhost"]
)
async def test_literal_is_refused_when_it_slipped_through_creation(host: str) -> None:
    """Every spelling is held against the list again when the call is made."""
    async with running(saying(OK)) as victim, open_sender(Settings()) as sender:
        reason = await refusal(sender, f"http://{host}:{victim.port}/")

    assert (reason, victim.connections) == (Reason.refused_address, 0)


async def test_next_address_is_tried_when_the_first_does_not_listen() -> None:
    """A name may have several vetted addresses."""
    zone = {"hook.example": {"A": [["127.0.0.3", "127.0.0.2"]]}}
    async with running(saying(OK), host="127.0.0.2") as outside, sending(zone, second_is_public) as (sender, _):
        answer = await post(sender, f"http://hook.example:{outside.port}/")

    assert answer.status == 200


async def test_reason_is_the_name_when_it_does_not_exist_or_nobody_says() -> None:
    """Both are worth another attempt, and neither takes longer than the call may."""
    async with sending({}) as (sender, names):
        unknown = await refusal(sender, "http://nothing.example/")
        names.silent = True
        begun = time.monotonic()
        silent = await refusal(sender, "http://silent.example/", 0.3)

    assert (unknown, silent) == (Reason.unknown_name, Reason.too_slow)
    assert time.monotonic() - begun < 10


async def test_request_is_whole_when_it_arrives() -> None:
    """Body and headers as given, Host by name, nothing of our trace, nothing compressed."""
    async with running(saying(OK)) as server, trusting() as sender:
        answer = await post(sender, f"http://localhost:{server.port}/a?b=c")

    (request,) = server.requests
    head, _, body = request.partition(b"\r\n\r\n")
    assert body == BODY
    assert head.startswith(b"POST /a?b=c HTTP/1.1\r\n")
    assert f"host: localhost:{server.port}" in head.decode().lower()
    assert b"accept-encoding: identity" in head
    assert b"webhook-id: msg_1" in head
    assert b"traceparent" not in head
    assert (answer.status, answer.headers["x-answer"], answer.body_start) == (200, "yes", "ok")


async def test_redirect_is_an_answer_when_a_server_sends_one() -> None:
    """It is never followed: it could lead inside."""
    async with running(saying(OK)) as victim, trusting() as sender:
        answer_of = f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{victim.port}/\r\nContent-Length: 0\r\n\r\n"
        async with running(saying(answer_of.encode())) as server:
            answer = await post(sender, f"http://127.0.0.1:{server.port}/")

    assert (answer.status, victim.connections) == (302, 0)


async def test_environment_and_cookies_count_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, no credentials of ~/.netrc, and no memory of a server's cookies."""
    cookie = OK.replace(b"X-Answer: yes", b"Set-Cookie: a=b")
    async with running(saying(cookie), keeps=True) as server, running(saying(OK)) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        async with trusting() as sender:
            for _ in range(2):
                await post(sender, f"http://127.0.0.1:{server.port}/")

    assert (proxy.connections, len(server.requests)) == (0, 2)
    assert b"cookie" not in server.requests[1].lower()


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nX: ",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfff;",
    ],
)
async def test_call_ends_in_time_when_the_answer_drips(start: bytes) -> None:
    """Byte after byte never outlasts the seconds of the call, wherever in the answer it happens."""
    async with running(dripping(start, b"a", pause_seconds=0.02)) as server, trusting() as sender:
        begun = time.monotonic()
        reason = await refusal(sender, f"http://127.0.0.1:{server.port}/", 0.3)

    assert reason is Reason.too_slow
    assert time.monotonic() - begun < 10


async def test_call_ends_in_time_when_nobody_reads() -> None:
    """A server that takes no bytes of a large body is left."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        begun = time.monotonic()
        async with trusting() as sender:
            with pytest.raises(NoAnswerError) as nothing:
                await sender.post(
                    f"http://127.0.0.1:{deaf.getsockname()[1]}/", b"x" * 20_000_000, {}, timeout_seconds=0.3
                )

    assert nothing.value.reason is Reason.too_slow
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("start", "drop"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-Header: " + b"x" * 1000 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 1000),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"),
    ],
)
async def test_call_is_refused_when_the_head_of_the_answer_never_ends(start: bytes, drop: bytes) -> None:
    """Headers and interim answers are bounded in bytes; nothing is collected beyond."""
    async with running(dripping(start, drop, pause_seconds=0)) as server, trusting() as sender:
        reason = await refusal(sender, f"http://127.0.0.1:{server.port}/")

    assert reason in {Reason.too_large, Reason.broken_off}


@pytest.mark.parametrize("size", [b"Content-Length: 99999999999", b"Connection: close", b"Content-Encoding: gzip"])
async def test_answer_is_cut_when_its_body_never_ends(size: bytes) -> None:
    """The status counts, the first characters are kept, and the rest is not read."""
    start = b"HTTP/1.1 500 Oh\r\n" + size + b"\r\n\r\n\x00\xff"
    async with running(dripping(start, b"x" * 1000, pause_seconds=0)) as server, trusting() as sender:
        answer = await post(sender, f"http://127.0.0.1:{server.port}/")

    assert answer.status == 500
    assert answer.body_start == ("\ufffd\ufffd" + "x" * 4094)


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\x00" * 100]
)
async def test_reason_is_a_broken_call_when_the_answer_is_no_http(answer: bytes) -> None:
    """Hanging up, half an answer, and another protocol."""
    async with running(saying(answer)) as server, trusting() as sender:
        reason = await refusal(sender, f"http://127.0.0.1:{server.port}/")
        await _gone(server)
        refused = await refusal(sender, f"http://127.0.0.4:{server.port}/")

    assert (reason, refused) == (Reason.broken_off, Reason.not_connected)


async def test_tls_is_checked_against_the_name_when_the_address_was_vetted() -> None:
    """The certificate of the name is taken; another name's, and an unknown authority's, are not."""
    authority = trustme.CA()
    served, trust, asked = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(), list[str | None]()
    authority.issue_cert("hook.example").configure_cert(served)
    authority.configure_trust(trust)
    served.sni_callback = lambda _socket, name, _context: asked.append(name)
    zone = {name: {"A": [["127.0.0.2"]]} for name in ("hook.example", "other.example")}
    async with running(saying(OK), host="127.0.0.2", tls=served) as server:
        async with sending(zone, second_is_public, trust) as (sender, _):
            answer = await post(sender, f"https://hook.example:{server.port}/")
            other = await refusal(sender, f"https://other.example:{server.port}/")
        async with sending(zone, second_is_public) as (sender, _):
            unknown = await refusal(sender, f"https://hook.example:{server.port}/")

    assert answer.status == 200
    assert (other, unknown) == (Reason.not_trusted, Reason.not_trusted)
    assert asked == ["hook.example", "other.example", "hook.example"]


async def test_span_shows_no_path_when_a_call_is_made(spans: InMemorySpanExporter) -> None:
    """Path and query of a webhook's URL may be its secret."""
    spans.clear()
    async with running(saying(OK)) as server, trusting() as sender:
        url = f"http://127.0.0.1:{server.port}/services/T0/s3cret?token=s3cret"
        await sender.post(url, BODY, HEADERS, resend_count=2)
        await refusal(sender, f"http://127.0.0.4:{server.port}/services/T0/s3cret")

    shown = "".join(span.to_json() for span in spans.get_finished_spans())
    assert "s3cret" not in shown
    assert '"http.request.resend_count": 2' in shown
    assert '"error.type": "not_connected"' in shown


async def _gone(server: Server) -> None:
    async with asyncio.timeout(2):
        while not server.requests:
            await asyncio.sleep(0.01)
