"""The safe sender: one POST to a server that may be hostile, slow or broken.

Owns the call of a webhook, whatever the URL turns out to mean: names are looked up and vetted when the connection is
made (see `connecting`), redirects are answers and not followed, nothing comes from the environment (no proxy), no
cookie is kept, no answer is decompressed, TLS certificates count. A call ends within its seconds and its bytes, drop by
drop or not. A server that could not be asked, or did not answer, is a `NoAnswerError` with its reason; everything that
did answer, with whatever status, is an `Answer`. The span shows where a call went, never the path: it may be secret.
Never hand on our trace context to somebody else's server.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Final

import httpcore
import msgspec

from headrace.errors import InvalidInputError
from headrace.settings import Settings
from headrace.telemetry import edges
from headrace.webhooks.addresses import Address, check_url, is_any, is_public, private
from headrace.webhooks.connecting import (
    AddressRefusedError,
    AnswerTooLargeError,
    CertificateError,
    PermittedBackend,
)
from headrace.webhooks.names import LookUp, NameUnknownError, open_names
from headrace.webhooks.target import Target

BODY_KEPT: Final = 4096
"""Characters of an answer's body that `Answer` keeps."""

_BODY_READ: Final = 64 * 1024  # so much is read so that the connection can be used again
_CONNECT_SECONDS: Final = 5.0
_IDLE_SECONDS: Final = 10.0
_IDLE_CONNECTIONS: Final = 50
_CHECK_SECONDS: Final = 2.0


class Reason(StrEnum):
    """Why there is no answer."""

    refused_address = "refused_address"
    unknown_name = "unknown_name"
    not_connected = "not_connected"
    not_trusted = "not_trusted"
    too_slow = "too_slow"
    too_large = "too_large"
    broken_off = "broken_off"


class NoAnswerError(Exception):
    """Nobody answered the call; `reason` says what came between."""

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason


class Answer(msgspec.Struct, frozen=True):
    """What a server answered: names of headers in lower case, `body_start` at most `BODY_KEPT` characters."""

    status: int
    headers: dict[str, str]
    body_start: str
    seconds: float


class Sender:
    """Calls other people's servers; one for a process."""

    def __init__(self, pool: httpcore.AsyncConnectionPool, look_up: LookUp, *, allow_private: bool) -> None:
        self._pool = pool
        self._look_up = look_up
        self._allow_private = allow_private

    async def check(self, url: str, *, field: str = "url") -> Target:
        """Look at the URL of a webhook that is being made: what it says, and where it leads today.

        A name that has no address yet is taken: it is looked up again for each call.

        Raises:
            InvalidInputError: a webhook cannot have it; names `field`.

        """
        target = check_url(url, allow_private=self._allow_private, field=field)
        if self._allow_private or target.address is not None:
            return target
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                addresses = await self._look_up(target.host)
        except (NameUnknownError, TimeoutError):
            return target
        if not all(is_public(address) for address in addresses):
            raise private(field, target.host)
        return target

    async def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        timeout_seconds: float = 15.0,
        resend_count: int = 0,
    ) -> Answer:
        """Send `body` and return the answer, of whatever status.

        Args:
            url: http or https; see `target`.
            body: the bytes, as they were signed.
            headers: with their content-type and signature; Host and Content-Length are ours.
            timeout_seconds: for everything, from the name to the last byte of the answer.
            resend_count: how often this was sent before, for the span.

        Raises:
            NoAnswerError: it did not arrive, or not in time, or it must not go there.

        """
        target = self._target(url)
        with edges.call("POST", target.origin, resend_count=resend_count) as span:
            try:
                async with asyncio.timeout(timeout_seconds):
                    answer = await self._exchange(target, body, headers)
            except _COME_BETWEEN as error:
                failure = _no_answer(target, error)
                span.failed_as(failure.reason, str(failure))
            else:
                edges.answered_to_us(span, answer.status)
                return answer
        raise failure

    def _target(self, url: str) -> Target:
        try:
            return check_url(url, allow_private=self._allow_private)
        except InvalidInputError as error:
            raise NoAnswerError(str(error), Reason.refused_address) from error

    async def _exchange(self, target: Target, body: bytes, headers: Mapping[str, str]) -> Answer:
        begun = time.monotonic()
        url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.rest)
        ours = [("user-agent", "headrace"), ("accept-encoding", "identity"), *headers.items()]
        times = {"timeout": {"connect": _CONNECT_SECONDS}}
        async with self._pool.stream("POST", url, headers=ours, content=body, extensions=times) as response:
            start = await _start_of(response)
        return Answer(response.status, _readable(response.headers), _text(start), time.monotonic() - begun)


_REASONS: Final[dict[type[Exception], Reason]] = {
    AddressRefusedError: Reason.refused_address,
    NameUnknownError: Reason.unknown_name,
    CertificateError: Reason.not_trusted,
    AnswerTooLargeError: Reason.too_large,
    TimeoutError: Reason.too_slow,
    httpcore.TimeoutException: Reason.too_slow,
    httpcore.ConnectError: Reason.not_connected,
    httpcore.NetworkError: Reason.broken_off,
    httpcore.ProtocolError: Reason.broken_off,
    OSError: Reason.broken_off,  # ssl.SSLError too: what httpcore does not translate
}
_COME_BETWEEN: Final = tuple(_REASONS)


@asynccontextmanager
async def open_sender(
    settings: Settings,
    *,
    look_up: LookUp | None = None,
    permits: Callable[[Address], bool] | None = None,
    trust: ssl.SSLContext | None = None,
) -> AsyncIterator[Sender]:
    """Provide the sender of a process, with connections that are kept for a few seconds between calls.

    Args:
        settings: whether private addresses are permitted.
        look_up: how names become addresses; by the system's name servers where not given.
        permits: which addresses may be called; as the settings say where not given.
        trust: whose certificates count; those of the system and of certifi where not given.

    """
    allow_private = settings.webhook_allow_private
    async with open_names() as by_the_system:
        asking = look_up or by_the_system
        async with httpcore.AsyncConnectionPool(
            ssl_context=trust or httpcore.default_ssl_context(),
            max_connections=None,
            max_keepalive_connections=_IDLE_CONNECTIONS,
            keepalive_expiry=_IDLE_SECONDS,
            network_backend=PermittedBackend(asking, permits or (is_any if allow_private else is_public)),
        ) as pool:
            yield Sender(pool, asking, allow_private=allow_private)


async def _start_of(response: httpcore.Response) -> bytes:
    """Return the first bytes of an answer; a connection with more on it is closed, not read."""
    start = b""
    async for part in response.aiter_stream():
        start += part
        if len(start) >= _BODY_READ:
            break
    return start


def _no_answer(target: Target, error: Exception) -> NoAnswerError:
    reason = next(reason for kind, reason in _REASONS.items() if isinstance(error, kind))
    failure = NoAnswerError(f"no answer from {target.origin}: {str(error) or 'it took too long'}", reason)
    failure.__cause__ = error
    return failure


def _readable(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def _text(start: bytes) -> str:
    """Return text that PostgreSQL takes."""
    return start[: 4 * BODY_KEPT].decode(errors="replace").replace("\x00", "\ufffd")[:BODY_KEPT]
