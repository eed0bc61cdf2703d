"""The outside world of the storefront's tests: a mail server and a warehouse, both real servers on a port of their own.

Owns what they were given, and what they answer. Neither is a mock: mail goes through SMTP, calls through HTTP.
"""

from __future__ import annotations

import email
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from headrace.stack.ports import free_port

SECRET = "whsec_aGVhZHJhY2UtdGVzdC1zZWNyZXQtMTIzNDU2"  # noqa: S105 - a secret of these tests
"""What calls to the warehouse are signed with."""


class Sink:
    """Keeps mails; answers with `refusal` instead where it is set."""

    def __init__(self) -> None:
        """Be empty and friendly."""
        self.port = 0
        self.mails: list[EmailMessage] = []
        self.recipients: list[str] = []
        self.recipient_refusal = ""
        self.content_refusal = ""

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """Take or refuse a recipient."""
        if self.recipient_refusal:
            return self.recipient_refusal
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - the same
        """Take or refuse a mail."""
        if self.content_refusal:
            return self.content_refusal
        content = envelope.original_content
        assert content is not None
        self.mails.append(email.message_from_bytes(content, policy=default))
        self.recipients += envelope.rcpt_tos
        return "250 OK"


class Depot(ThreadingHTTPServer):
    """A warehouse: keeps what it is told, and answers as it is told."""

    def __init__(self) -> None:
        """Listen on a free port."""
        super().__init__(("127.0.0.1", 0), Counter)
        self.status = 200
        self.answer = b'{"reference": "W-1"}'
        self.location: str | None = None
        self.calls: list[tuple[dict[str, str], bytes]] = []


class Counter(BaseHTTPRequestHandler):
    """The depot's front desk."""

    server: Depot

    def do_POST(self) -> None:
        """Take a call."""
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.calls.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(self.server.status)
        if self.server.location:
            self.send_header("location", self.server.location)
        self.end_headers()
        self.wfile.write(self.server.answer)

    def log_message(self, format: str, *_arguments: object) -> None:  # noqa: A002 - http.server's name
        """Be silent."""


@contextmanager
def running_sink() -> Iterator[Sink]:
    """Run a mail server."""
    sink = Sink()
    with listening(sink, free_port()):
        yield sink


@contextmanager
def listening(sink: Sink, port: int) -> Iterator[None]:
    """Let a mail server listen for the time of the block."""
    controller = Controller(sink, hostname="127.0.0.1", port=port, enable_SMTPUTF8=True)
    controller.start()
    sink.port = port
    yield
    controller.stop()


@contextmanager
def running_depot() -> Iterator[Depot]:
    """Run a warehouse."""
    depot = Depot()
    thread = threading.Thread(target=depot.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield depot
    depot.shutdown()
    depot.server_close()
    thread.join()
