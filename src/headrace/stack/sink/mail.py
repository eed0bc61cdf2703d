"""The mailbox of the sink: every mail that the stack sends ends here.

Owns the SMTP side and the kept mails: one `.eml` file per mail, as it was received, with the envelope's addresses put
before its headers (`X-Envelope-From`, `X-Envelope-To`), because blind copies are nowhere else. A mail is answered with
250 only when its file is complete. Never deliver anything.
"""

from __future__ import annotations

import asyncio
import email
import email.policy
from datetime import datetime
from email.message import EmailMessage, MIMEPart
from pathlib import Path
from typing import Protocol
from uuid import UUID

import msgspec
from aiosmtpd.smtp import SMTP

from headrace.clock import new_id, time_of
from headrace.stack.files import replace_file

_LARGEST_MAIL = 40_000_000


class Attachment(msgspec.Struct, frozen=True):
    """A part of a mail that is to be saved; `number` counts from 0."""

    number: int
    name: str
    content_type: str
    size_bytes: int
    url: str


class Mail(msgspec.Struct, frozen=True, kw_only=True):
    """A mail as `GET /mails` shows it; `to` are the envelope's recipients."""

    id: UUID
    received_at: datetime
    sender: str = msgspec.field(name="from")
    to: tuple[str, ...]
    subject: str
    text: str
    message_id: str
    attachments: tuple[Attachment, ...]
    url: str


class Envelope(Protocol):
    """What aiosmtpd hands over."""

    mail_from: str
    rcpt_tos: list[str]
    content: bytes


class Mailbox:
    """The mails in a directory, newest first."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._mails = {mail.id: mail for mail in map(_read, sorted(directory.glob("*.eml")))}

    def protocol(self) -> SMTP:
        """Return the SMTP side of one connection."""
        return SMTP(self, data_size_limit=_LARGEST_MAIL, enable_SMTPUTF8=True, hostname="headrace.localhost")

    async def handle_DATA(self, _server: SMTP, _session: object, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        """Keep a mail; the answer goes to its sender."""
        mail = await asyncio.to_thread(self._keep, envelope)
        self._mails[mail.id] = mail
        return f"250 kept as {mail.id}"

    def all(self) -> list[Mail]:
        """Return the mails, newest first."""
        return sorted(self._mails.values(), key=lambda mail: mail.id, reverse=True)

    def raw(self, identity: UUID) -> bytes | None:
        """Return a mail as it was received."""
        return _path(self._directory, identity).read_bytes() if identity in self._mails else None

    def attachment(self, identity: UUID, number: int) -> tuple[Attachment, bytes] | None:
        """Return an attachment and its content."""
        mail, raw = self._mails.get(identity), self.raw(identity)
        if mail is None or raw is None or not 0 <= number < len(mail.attachments):
            return None
        return mail.attachments[number], _content(_attachments_of(_parse(raw))[number])

    def _keep(self, envelope: Envelope) -> Mail:
        path = _path(self._directory, new_id())
        recipients = "".join(f"X-Envelope-To: {recipient}\r\n" for recipient in envelope.rcpt_tos)
        head = f"X-Envelope-From: {envelope.mail_from}\r\n{recipients}"
        replace_file(path, head.encode() + envelope.content)
        return _read(path)


def _path(directory: Path, identity: UUID) -> Path:
    return directory / f"{identity}.eml"


def _parse(raw: bytes) -> EmailMessage:
    # the default policy returns the modern class; the signature names the older one
    return email.message_from_bytes(raw, EmailMessage, policy=email.policy.default)


def _read(path: Path) -> Mail:
    identity = UUID(path.stem)
    message = _parse(path.read_bytes())
    body = message.get_body(("plain", "html"))
    return Mail(
        id=identity,
        received_at=time_of(identity),
        sender=str(message.get("from", "")),
        to=tuple(str(recipient) for recipient in message.get_all("x-envelope-to", [])),
        subject=str(message.get("subject", "")),
        text=_content(body).decode(errors="replace") if body is not None else "",
        message_id=str(message.get("message-id", "")),
        attachments=tuple(
            Attachment(
                number=number,
                name=part.get_filename() or f"part-{number}",
                content_type=part.get_content_type(),
                size_bytes=len(_content(part)),
                url=f"/mails/{identity}/attachments/{number}",
            )
            for number, part in enumerate(_attachments_of(message))
        ),
        url=f"/mails/{identity}/raw",
    )


def _attachments_of(message: EmailMessage) -> list[EmailMessage]:
    return [part for part in message.iter_attachments() if isinstance(part, EmailMessage)]


def _content(part: MIMEPart) -> bytes:
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else part.as_bytes()
