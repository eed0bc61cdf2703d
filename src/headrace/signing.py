"""Signatures of HTTP calls, as Standard Webhooks 1.0 has them.

Owns the making and checking of the three headers `webhook-id`, `webhook-timestamp` and `webhook-signature`:
HMAC-SHA256 over `id.timestamp.body` with the bytes behind `whsec_`, in base64, after `v1,`. Several signatures may
stand in one header, separated by spaces, while a secret is being rotated. A call that is not signed rightly, or too
long ago, is refused without saying which part was wrong. Never compare signatures with `==`: the time it takes tells
how much of them fits. Source:
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime

from headrace.clock import now
from headrace.errors import ConfigurationError, InvalidInputError

_PREFIX = "whsec_"
_VERSION = "v1"
_ID, _TIMESTAMP, _SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"


def sign(secret: str, *, message_id: str, timestamp: datetime, body: bytes) -> dict[str, str]:
    """Return the headers that make the receiver of `body` sure of its sender.

    Args:
        secret: `whsec_` and base64; the receiver has the same.
        message_id: the same at every attempt of one message.
        timestamp: when this attempt is made; the receiver refuses old ones.
        body: exactly the bytes that are sent.

    Raises:
        ConfigurationError: the secret has another form.

    """
    seconds = str(int(timestamp.timestamp()))
    signature = base64.b64encode(_digest(_key(secret), message_id, seconds, body)).decode()
    return {_ID: message_id, _TIMESTAMP: seconds, _SIGNATURE: f"{_VERSION},{signature}"}


def verify(secret: str, *, headers: Mapping[str, str], body: bytes, tolerance_seconds: float = 300) -> None:
    """Refuse a call that the owner of `secret` did not sign within the last `tolerance_seconds` (or as far ahead).

    Raises:
        InvalidInputError: a header is missing or malformed, the time is too far off, or no signature fits.
        ConfigurationError: the secret has another form.

    """
    lower = {name.lower(): value for name, value in headers.items()}
    message_id, seconds, signatures = (lower.get(name, "") for name in (_ID, _TIMESTAMP, _SIGNATURE))
    if not message_id or not seconds.isascii() or not seconds.isdecimal() or not _is_recent(seconds, tolerance_seconds):
        raise _refused()
    expected = _digest(_key(secret), message_id, seconds, body)
    if not any(hmac.compare_digest(expected, given) for given in _given(signatures)):
        raise _refused()


def _refused() -> InvalidInputError:
    return InvalidInputError("the call is not signed as Standard Webhooks asks, or not lately")


def _is_recent(seconds: str, tolerance_seconds: float) -> bool:
    try:
        signed_at = datetime.fromtimestamp(int(seconds), UTC)
    except (ValueError, OverflowError, OSError):
        return False
    return abs((now() - signed_at).total_seconds()) <= tolerance_seconds


def _given(signatures: str) -> list[bytes]:
    """Return the digests of our version that the header carries; other versions are others' business."""
    found = []
    for signature in signatures.split(" "):
        version, _, encoded = signature.partition(",")
        if version == _VERSION and (digest := _decoded(encoded)) is not None:
            found.append(digest)
    return found


def _key(secret: str) -> bytes:
    key = _decoded(secret.removeprefix(_PREFIX))
    if not key:
        message = f"the signing secret must be {_PREFIX} followed by base64"
        raise ConfigurationError(message)
    return key


def _decoded(encoded: str) -> bytes | None:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None


def _digest(key: bytes, message_id: str, seconds: str, body: bytes) -> bytes:
    return hmac.digest(key, f"{message_id}.{seconds}.".encode() + body, hashlib.sha256)
