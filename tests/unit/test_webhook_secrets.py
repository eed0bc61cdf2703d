"""Secrets of webhooks: signatures of several, and encryption at rest with keys that change."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from headrace.clock import now
from headrace.errors import ConfigurationError
from headrace.settings import Settings
from headrace.stack.plan import make_plan
from headrace.webhooks.secrets import SecretBox, new_key
from headrace.webhooks.signing import new_secret, signature_headers

BODY = '{"data":"Größe 7"}'.encode()


def box(*keys: str) -> SecretBox:
    """Return a box with these keys."""
    return SecretBox.of(Settings(secret_keys=" , ".join(keys)))


def test_reference_accepts_each_secret_when_two_are_valid() -> None:
    """While a secret is being changed, a receiver may know the old one or the new one."""
    new, old = new_secret(), new_secret()

    headers = signature_headers((new, old), message_id="msg_1", timestamp=now(), body=BODY)

    for known in (new, old):
        assert Webhook(known).verify(BODY, headers) == {"data": "Größe 7"}
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(BODY, headers)


def test_new_secret_has_the_length_that_the_standard_asks_for() -> None:
    """24 to 64 bytes, each time others."""
    first, second = new_secret(), new_secret()

    assert first != second
    assert len(base64.b64decode(first.removeprefix("whsec_"))) == 32


def test_signing_is_refused_when_there_is_no_secret() -> None:
    """A call that nobody can check is not made."""
    with pytest.raises(ConfigurationError, match="secret"):
        signature_headers((), message_id="msg_1", timestamp=now(), body=BODY)


def test_secret_comes_back_when_it_was_sealed() -> None:
    """What is on record shows nothing of it, and differs each time."""
    secret, keeper = new_secret(), box(new_key())

    sealed = keeper.seal(secret)

    assert secret.removeprefix("whsec_") not in sealed
    assert keeper.open(sealed).secret == secret
    assert keeper.open(sealed).renewed is None
    assert sealed != keeper.seal(secret)


def test_secret_is_renewed_when_the_key_changed() -> None:
    """With the new key in front the old secret is read, and comes back as the new key writes it."""
    old, new, secret = new_key(), new_key(), new_secret()
    sealed = box(old).seal(secret)

    opened = box(new, old).open(sealed)

    assert opened.secret == secret
    assert opened.renewed is not None
    assert box(new).open(opened.renewed).secret == secret


def test_secret_is_not_read_when_its_key_is_gone() -> None:
    """The message names the setting, and shows neither the secret nor a key."""
    sealed = box(new_key()).seal(new_secret())

    with pytest.raises(ConfigurationError, match="HEADRACE_SECRET_KEYS"):
        box(new_key()).open(sealed)


@pytest.mark.parametrize("call", [lambda keeper: keeper.seal("whsec_x"), lambda keeper: keeper.open("x")])
def test_advice_is_given_when_there_is_no_key(call: Callable[[SecretBox], object]) -> None:
    """A process that has no key starts, and says what is missing where one is needed."""
    keeper = SecretBox.of(Settings())

    assert not keeper.has_keys
    with pytest.raises(ConfigurationError, match="headrace keys secret"):
        call(keeper)


def test_key_is_refused_without_being_shown_when_it_is_malformed() -> None:
    """A key that is nearly right must not land in a log."""
    with pytest.raises(ConfigurationError, match="key 2 of HEADRACE_SECRET_KEYS") as refused:
        box(new_key(), "nearly-a-key")

    assert "nearly-a-key" not in str(refused.value)
    assert refused.value.__suppress_context__


def test_opened_secret_hides_when_it_is_printed() -> None:
    """A traceback with values of variables shows nothing."""
    keeper = box(new_key())

    shown = repr(keeper.open(keeper.seal("whsec_abc")))

    assert "whsec" not in shown


def test_stack_keeps_one_key_when_none_is_set(tmp_path: Path) -> None:
    """`headrace up` makes it once, for its owner only; a key of the operator's is used as it is."""
    made = [_keys_of(Settings(), tmp_path) for _ in range(2)]
    given = _keys_of(Settings(secret_keys=new_key()), tmp_path)

    assert made[0] == made[1] == (tmp_path / "secret.keys").read_text()
    assert (tmp_path / "secret.keys").stat().st_mode & 0o777 == 0o600
    assert given != made[0]
    assert SecretBox.of(Settings(secret_keys=made[0])).has_keys


def _keys_of(settings: Settings, directory: Path) -> str:
    stores = {"HEADRACE_DATABASE_URL": "postgresql://x@127.0.0.1:1/x", "HEADRACE_REDIS_URL": "redis://127.0.0.1:1/0"}
    plan = make_plan(settings, stores, port=0, directory=directory)
    return plan.processes[0].environment["HEADRACE_SECRET_KEYS"]
