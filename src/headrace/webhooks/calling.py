"""One call of a webhook: sign, post, and say what came of it.

Owns the headers of a delivery and the value `Called`. A secret is in clear here alone, for the time of signing. The
`webhook-id` is the event's id on record, the same at every attempt and when it is sent again. Whatever the other side
does is a `Called`, never an exception; only a deployment without its keys raises. Never put our trace context into the
headers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final
from uuid import UUID

import msgspec

from headrace.clock import now
from headrace.errors import ConfigurationError, UnavailableError
from headrace.settings import Settings
from headrace.webhooks.body import CONTENT_TYPE
from headrace.webhooks.schedule import retry_after_seconds
from headrace.webhooks.secrets import SecretBox
from headrace.webhooks.sender import NoAnswerError, Sender, open_sender
from headrace.webhooks.signing import signature_headers

POST_SECONDS: Final = 15.0
"""For a whole call."""

REPLAY_HEADER: Final = "headrace-replay"

_MENDED_SECONDS: Final = 60
"""When to ask again a deployment that lacks its keys."""

_ASKS_FOR_TIME: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent, and where: `secrets` are encrypted, the valid one first."""

    url: str
    secrets: Sequence[str]
    id: str
    body: bytes
    replay_id: UUID | None = None
    resend_count: int = 0


class Called(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a call."""

    status: int | None
    """None where nobody answered."""
    error: str | None
    response: str | None
    """The beginning of the answer."""
    seconds: float
    asked_seconds: float | None = None
    """For how long the server asks to be left alone."""

    @property
    def is_taken(self) -> bool:
        """Whether the receiver has it."""
        return self.status is not None and HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    @property
    def is_gone(self) -> bool:
        """Whether the receiver wants nothing any more."""
        return self.status == HTTPStatus.GONE


class Caller:
    """Calls webhooks; one for a process."""

    def __init__(self, sender: Sender, box: SecretBox, *, disable_days: int) -> None:
        self._sender = sender
        self._box = box
        self.disable_days = disable_days
        """For how many days a webhook may fail before it is disabled."""

    async def check(self, url: str) -> None:
        """Look at the URL of a webhook that is being made.

        Raises:
            InvalidInputError: a webhook cannot have it.

        """
        await self._sender.check(url)

    def seal(self, secret: str) -> str:
        """Return a secret as it stands on record.

        Raises:
            UnavailableError: this process has no key to encrypt it with.

        """
        try:
            return self._box.seal(secret)
        except ConfigurationError as error:
            raise UnavailableError(str(error), retry_after_seconds=_MENDED_SECONDS) from error

    def reveal(self, sealed: str) -> str:
        """Return a secret to who has just made it.

        Raises:
            UnavailableError: this process has no key for it.

        """
        try:
            return self._box.open(sealed).secret
        except ConfigurationError as error:
            raise UnavailableError(str(error), retry_after_seconds=_MENDED_SECONDS) from error

    async def call(self, message: Message) -> Called:
        """Send a message.

        Raises:
            ConfigurationError: this process has no key for the secrets.

        """
        secrets = [self._box.open(sealed).secret for sealed in message.secrets]
        begun = now()
        headers = {"content-type": CONTENT_TYPE} | signature_headers(
            secrets, message_id=message.id, timestamp=begun, body=message.body
        )
        if message.replay_id is not None:
            headers[REPLAY_HEADER] = str(message.replay_id)
        try:
            answer = await self._sender.post(
                message.url, message.body, headers, timeout_seconds=POST_SECONDS, resend_count=message.resend_count
            )
        except NoAnswerError as error:
            seconds = max((now() - begun).total_seconds(), 0.0)
            return Called(status=None, error=f"{error.reason}: {error}", response=None, seconds=seconds)
        asked = answer.headers.get("retry-after") if answer.status in _ASKS_FOR_TIME else None
        taken = HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES
        return Called(
            status=answer.status,
            error=None if taken else f"the endpoint answered {answer.status}",
            response=answer.body_start,
            seconds=answer.seconds,
            asked_seconds=retry_after_seconds(asked, now()),
        )


@asynccontextmanager
async def open_caller(settings: Settings) -> AsyncIterator[Caller]:
    """Provide the caller of a process."""
    box = SecretBox.of(settings)
    async with open_sender(settings) as sender:
        yield Caller(sender, box, disable_days=settings.webhook_disable_days)
