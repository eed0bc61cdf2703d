"""Signatures agree with the reference implementation of Standard Webhooks, in both directions."""

from __future__ import annotations

import base64
from datetime import timedelta

import pytest
from standardwebhooks import Webhook

from headrace.clock import now
from headrace.errors import ConfigurationError, InvalidInputError
from headrace.signing import sign, verify

SECRET = "whsec_" + base64.b64encode(b"a secret of twenty-four!").decode()
OTHER = "whsec_" + base64.b64encode(b"another of twenty-four!!").decode()
BODY = '{"order_id": "Größe 7"}'.encode()


def signed(secret: str = SECRET, *, age: timedelta = timedelta(0), body: bytes = BODY) -> dict[str, str]:
    """Return the headers of a call that was signed `age` ago."""
    return sign(secret, message_id="msg_1", timestamp=now() - age, body=body)


def test_reference_accepts_when_we_sign() -> None:
    """The reference implementation verifies our headers."""
    headers = signed()

    payload = Webhook(SECRET).verify(BODY, headers)

    assert payload == {"order_id": "Größe 7"}


def test_we_accept_when_the_reference_signs() -> None:
    """We verify what the reference implementation signed, whatever the case of the header names."""
    moment = now()
    signature = Webhook(SECRET).sign("msg_1", moment, BODY.decode())
    headers = {
        "Webhook-Id": "msg_1",
        "Webhook-Timestamp": str(int(moment.timestamp())),
        "Webhook-Signature": signature,
    }

    verify(SECRET, headers=headers, body=BODY)

    assert signed()["webhook-id"] == "msg_1"


def test_verify_accepts_when_one_of_several_signatures_fits() -> None:
    """While a secret is rotated the header carries a signature of each, and perhaps of unknown versions."""
    ours, others = signed(), signed(OTHER)
    header = f"v1a,AAAA {others['webhook-signature']} {ours['webhook-signature']}"

    verify(SECRET, headers=ours | {"webhook-signature": header}, body=BODY)

    assert header.count("v1,") == 2


@pytest.mark.parametrize(
    "headers",
    [
        signed(OTHER),
        signed(body=b"other"),
        signed(age=timedelta(seconds=301)),
        signed(age=timedelta(hours=-1)),
        signed() | {"webhook-id": "msg_2"},
        signed() | {"webhook-timestamp": "1"},
        signed() | {"webhook-timestamp": "9" * 30},
        signed() | {"webhook-timestamp": "-5"},
        signed() | {"webhook-timestamp": "²"},
        signed() | {"webhook-signature": ""},
        signed() | {"webhook-signature": "v1,not base64"},
        signed() | {"webhook-signature": "v1,ünsinn"},
        signed() | {"webhook-signature": signed()["webhook-signature"].replace("v1", "v2")},
        {},
    ],
)
def test_verify_refuses_when_anything_is_wrong(headers: dict[str, str]) -> None:
    """Another secret, body, id or time, and every malformed header are refused alike."""
    with pytest.raises(InvalidInputError, match="not signed"):
        verify(SECRET, headers=headers, body=BODY)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_not base64"])
def test_sign_refuses_when_the_secret_is_malformed(secret: str) -> None:
    """A secret of another form is the operator's mistake, and said so."""
    with pytest.raises(ConfigurationError, match="whsec_"):
        sign(secret, message_id="msg_1", timestamp=now(), body=BODY)
