"""Mail, handed to a real mail server."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from headrace.errors import ConfigurationError
from headrace.settings import Settings
from headrace.stack.ports import free_port
from storefront.mail import Attachment, Mail, MailDelayedError, MailRefusedError, MailServer, open_mailer
from tests.integration.storefront_world import Sink, running_sink

MAIL = Mail(
    recipient="ada@example.com",
    subject="Ihre Bestellung ✓",
    text="Thank you.\n",
    key="order-1.confirmation",
    written_at=datetime(2026, 11, 20, 12, tzinfo=UTC),
    attachments=(Attachment("INV-000001.pdf", b"%PDF-1.4 \x00\xff", "pdf"),),
)


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A running mail server."""
    with running_sink() as server:
        yield server


@pytest.fixture
def settings(sink: Sink) -> Settings:
    """Settings that name the mail server."""
    return Settings(smtp_url=f"smtp://127.0.0.1:{sink.port}", mail_from="Shop <shop@example.com>")


async def test_mail_arrives_whole_when_it_has_an_attachment(sink: Sink, settings: Settings) -> None:
    """Addresses, subject, text, date and the attached file are what was given."""
    async with open_mailer(settings) as mailer:
        message_id = await mailer.send(MAIL)

    (mail,) = sink.mails
    (attached,) = mail.iter_attachments()
    body = mail.get_body()
    assert message_id == mail["Message-ID"] == "<order-1.confirmation@example.com>"
    assert (mail["From"], mail["To"]) == ("Shop <shop@example.com>", "ada@example.com")
    assert (mail["Subject"], mail["Date"]) == (MAIL.subject, "Fri, 20 Nov 2026 12:00:00 +0000")
    assert body is not None
    assert body.get_content() == "Thank you.\r\n"
    assert (attached.get_content_type(), attached.get_filename()) == ("application/pdf", "INV-000001.pdf")
    assert attached.get_content() == b"%PDF-1.4 \x00\xff"
    assert sink.recipients == ["ada@example.com"]


async def test_mail_is_recognizable_when_it_is_sent_again(sink: Sink, settings: Settings) -> None:
    """A repeat has the identity of the first."""
    async with open_mailer(settings) as mailer:
        first, second = await mailer.send(MAIL), await mailer.send(MAIL)

    assert first == second
    assert len({mail["Message-ID"] for mail in sink.mails}) == 1


async def test_mail_arrives_when_the_address_is_not_latin(sink: Sink, settings: Settings) -> None:
    """Addresses of other scripts go by SMTPUTF8."""
    async with open_mailer(settings) as mailer:
        await mailer.send(
            Mail(recipient="ζωή@παράδειγμα.ελ", subject="x", text="y", key="k", written_at=MAIL.written_at)
        )

    assert sink.recipients == ["ζωή@παράδειγμα.ελ"]


@pytest.mark.parametrize(
    ("code", "consequence"),
    [("451 greylisted", MailDelayedError), ("452 full", MailDelayedError), ("550 unknown", MailRefusedError)],
)
async def test_consequence_follows_the_code_when_the_recipient_is_not_taken(
    sink: Sink, settings: Settings, code: str, consequence: type[Exception]
) -> None:
    """4yz is worth another attempt, 5yz is not."""
    sink.recipient_refusal = code

    async with open_mailer(settings) as mailer:
        with pytest.raises(consequence, match=code.split()[1]):
            await mailer.send(MAIL)


@pytest.mark.parametrize(("code", "consequence"), [("451 later", MailDelayedError), ("554 spam", MailRefusedError)])
async def test_consequence_follows_the_code_when_the_content_is_not_taken(
    sink: Sink, settings: Settings, code: str, consequence: type[Exception]
) -> None:
    """The same holds for the answer to the content."""
    sink.content_refusal = code

    async with open_mailer(settings) as mailer:
        with pytest.raises(consequence, match=code.split()[1]):
            await mailer.send(MAIL)


async def test_mail_is_delayed_when_the_server_is_away() -> None:
    """A lost mail server is worth another attempt."""
    settings = Settings(smtp_url=f"smtp://127.0.0.1:{free_port()}")

    async with open_mailer(settings) as mailer:
        with pytest.raises(MailDelayedError):
            await mailer.send(MAIL)


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://mail.example.com", MailServer("mail.example.com", 25, tls=False)),
        ("smtps://mail.example.com", MailServer("mail.example.com", 465, tls=True)),
        ("smtp://u%40x:p%3Aw@h:587", MailServer("h", 587, tls=False, username="u@x", password="p:w")),  # noqa: S106 - no secret
    ],
)
def test_server_is_read_when_the_url_is_right(url: str, server: MailServer) -> None:
    """Ports have their defaults, and credentials are unquoted."""
    assert MailServer.from_url(url) == server


@pytest.mark.parametrize("url", ["mail.example.com:25", "http://mail.example.com", "smtp://host:port"])
def test_url_is_refused_when_it_names_no_mail_server(url: str) -> None:
    """The process says what the setting should read."""
    with pytest.raises(ConfigurationError, match="HEADRACE_SMTP_URL"):
        MailServer.from_url(url)
