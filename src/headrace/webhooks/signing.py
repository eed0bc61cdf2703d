"""The signature headers of a webhook that has one secret, or two while they are being changed.

Owns the three headers of Standard Webhooks 1.0 for several secrets: one `webhook-signature` with a signature of each,
separated by spaces, so that a receiver who knows any of them accepts; and the making of new secrets. How one signature
is made is `headrace.signing`'s. Source:
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import secrets as random
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from headrace.errors import ConfigurationError
from headrace.signing import sign

_SIGNATURE: Final = "webhook-signature"
_SECRET_BYTES: Final = 32  # the standard asks for 24 to 64


def new_secret() -> str:
    """Return a new signing secret, `whsec_` and base64."""
    return "whsec_" + base64.b64encode(random.token_bytes(_SECRET_BYTES)).decode()


def signature_headers(
    signing_secrets: Sequence[str], *, message_id: str, timestamp: datetime, body: bytes
) -> dict[str, str]:
    """Return the headers that make any owner of one of the secrets sure of the sender of `body`.

    Args:
        signing_secrets: `whsec_…` each, the newest first.
        message_id: the same at every attempt of one message.
        timestamp: when this attempt is made.
        body: exactly the bytes that are sent.

    Raises:
        ConfigurationError: there is no secret, or one has another form.

    """
    signed = [sign(secret, message_id=message_id, timestamp=timestamp, body=body) for secret in signing_secrets]
    if not signed:
        message = "a webhook without a signing secret cannot be called"
        raise ConfigurationError(message)
    return signed[0] | {_SIGNATURE: " ".join(headers[_SIGNATURE] for headers in signed)}
