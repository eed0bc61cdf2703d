"""Mail: one message with an attachment, handed to the mail server.

Owns the connection parameters of `HEADRACE_SMTP_URL` and the `smtp.send` span. Each message has its own connection. A
server that is away or says "later" (4yz) raises `MailDelayedError`; one that says "never" to this sender, recipient or
message (5yz, RFC 5321 section 4.2.1) raises `MailRefusedError`, which no retry mends. A message that is sent again
carries the same Message-ID, so that a mailbox shows one. `smtp://` uses TLS where the server offers it, and insists on
a valid certificate as soon as there is a password to protect; `smtps://` always does.
Never log or trace an address in clear.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime, parseaddr
from urllib.parse import unquote, urlsplit

import aiosmtplib
import msgspec

from headrace.errors import ConfigurationError
from headrace.jobs.retry import PermanentError
from headrace.settings import Settings
from headrace.telemetry import edges

_TIMEOUT_SECONDS = 15
_PORTS = {"smtp": 25, "smtps": 465}
_PERMANENT = 500
# RFC 5322 allows 998; the usual 78 would break a long Message-ID in two, which not every mailbox puts together again.
_PLAIN = SMTP.clone(max_line_length=200, cte_type="7bit")
_WITH_UTF8 = SMTPUTF8.clone(max_line_length=200)
_ABOUT_THIS_MAIL = (
    aiosmtplib.SMTPSenderRefused,
    aiosmtplib.SMTPRecipientRefused,
    aiosmtplib.SMTPRecipientsRefused,
    aiosmtplib.SMTPDataError,
)


class MailDelayedError(Exception):
    """The mail was not taken this time; another attempt can succeed."""


class MailRefusedError(PermanentError):
    """The mail server refused the mail for good."""


class MailServer(msgspec.Struct, frozen=True):
    """Where mail is handed in."""

    host: str
    port: int
    tls: bool
    username: str | None = None
    password: str | None = None

    @classmethod
    def from_url(cls, url: str) -> MailServer:
        """Read `smtp://[user:password@]host[:port]` or `smtps://…`.

        Raises:
            ConfigurationError: it is no such URL.

        """
        try:
            parts = urlsplit(url)
            port = parts.port or _PORTS[parts.scheme]
        except (KeyError, ValueError) as error:
            message = "HEADRACE_SMTP_URL must read smtp://[user:password@]host:port or smtps://…"
            raise ConfigurationError(message) from error
        username = unquote(parts.username) if parts.username else None
        password = unquote(parts.password) if parts.password else None
        return cls(parts.hostname or "127.0.0.1", port, parts.scheme == "smtps", username, password)


class Attachment(msgspec.Struct, frozen=True):
    """A file that goes with a mail."""

    filename: str
    content: bytes
    subtype: str
    """Of the media type `application/…`."""


class Mail(msgspec.Struct, frozen=True, kw_only=True):
    """A mail to one recipient; `key` and `written_at` make a repeat recognizable as the same mail."""

    recipient: str
    subject: str
    text: str
    key: str
    written_at: datetime
    attachments: tuple[Attachment, ...] = ()


class Mailer:
    """Sends mail."""

    def __init__(self, server: MailServer, *, sender: str) -> None:
        """Send through `server`, as `sender`, an address such as `Shop <shop@example.com>`."""
        self._server = server
        self._name, self._address = parseaddr(sender)
        if "@" not in self._address or not self._address.isascii():
            message = f"HEADRACE_MAIL_FROM must be an ASCII address such as Shop <shop@example.com>, not {sender!r}"
            raise ConfigurationError(message)

    async def send(self, mail: Mail) -> str:
        """Hand a mail to the server and return its Message-ID.

        Raises:
            MailDelayedError: it was not taken this time.
            MailRefusedError: it was refused for good.

        """
        message = self._compose(mail)
        server = self._server
        with edges.mail(server.host, server.port, recipient=mail.recipient) as span:
            try:
                await self._hand_over(message, mail.recipient)
            except (aiosmtplib.SMTPException, OSError) as error:
                code = _reply_code(error)
                span.failed_as(str(code or type(error).__qualname__))
                raise _consequence(error, code) from error
        return str(message["Message-ID"])

    def _compose(self, mail: Mail) -> EmailMessage:
        message = EmailMessage(policy=_PLAIN if mail.recipient.isascii() else _WITH_UTF8)
        message["From"] = str(Address(self._name, addr_spec=self._address))
        message["To"] = mail.recipient
        message["Subject"] = mail.subject
        message["Date"] = format_datetime(mail.written_at)
        message["Message-ID"] = f"<{mail.key}@{self._address.rpartition('@')[2]}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(mail.text)
        for attachment in mail.attachments:
            message.add_attachment(
                attachment.content, maintype="application", subtype=attachment.subtype, filename=attachment.filename
            )
        return message

    async def _hand_over(self, message: EmailMessage, recipient: str) -> None:
        server = self._server
        await aiosmtplib.send(
            message.as_bytes(),
            sender=self._address,
            recipients=[recipient],
            mail_options=[] if recipient.isascii() else ["SMTPUTF8", "BODY=8BITMIME"],
            hostname=server.host,
            port=server.port,
            username=server.username,
            password=server.password,
            use_tls=server.tls,
            validate_certs=server.tls or server.password is not None,
            timeout=_TIMEOUT_SECONDS,
        )


@asynccontextmanager
async def open_mailer(settings: Settings) -> AsyncIterator[Mailer]:
    """Provide the mailer of a process."""
    yield Mailer(MailServer.from_url(settings.smtp_url), sender=settings.mail_from)


def _consequence(error: Exception, code: int | None) -> Exception:
    if isinstance(error, _ABOUT_THIS_MAIL) and code is not None and code >= _PERMANENT:
        return MailRefusedError(f"the mail server refused the mail: {error}")
    return MailDelayedError(f"the mail server did not take the mail: {str(error) or type(error).__qualname__}")


def _reply_code(error: Exception) -> int | None:
    """Return the SMTP reply code behind an error, None where the server did not even answer."""
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused) and error.recipients:
        return error.recipients[0].code
    return error.code if isinstance(error, aiosmtplib.SMTPResponseException) else None
