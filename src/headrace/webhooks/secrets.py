"""Secrets of webhooks at rest: on record only encrypted, readable only with the keys of the deployment.

Owns encryption and decryption with `HEADRACE_SECRET_KEYS` (Fernet: AES-128-CBC with HMAC-SHA256). The first key
encrypts, every key decrypts; so a key is changed by putting the new one in front, and `Opened.renewed` is the same
secret under the new key, to be written back by whoever read it. A process without the keys, or with others, says which
setting is missing (`ConfigurationError`); nothing is lost, the deliveries wait.
Never put a secret into a log, a span, an error, or the arguments of a job.
"""

from __future__ import annotations

import msgspec
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from headrace.errors import ConfigurationError
from headrace.settings import Settings

_ADVICE = "`headrace keys secret` makes one; every process of the deployment needs the same"


class Opened(msgspec.Struct, frozen=True):
    """A secret in clear, and how it should stand on record where it stands under an old key."""

    secret: str
    renewed: str | None = None

    def __repr__(self) -> str:
        """Show nothing: this may be printed with a traceback."""
        return "Opened(…)"


class SecretBox:
    """Encrypts and decrypts with the keys of this process."""

    def __init__(self, keys: tuple[Fernet, ...]) -> None:
        self._keys = keys

    @classmethod
    def of(cls, settings: Settings) -> SecretBox:
        """Take the keys of the settings; where there are none, the box says so when it is used.

        Raises:
            ConfigurationError: a key is malformed.

        """
        written = [key.strip() for key in (settings.secret_keys or "").split(",")]
        return cls(tuple(_key(key, number) for number, key in enumerate(written, 1) if key))

    @property
    def has_keys(self) -> bool:
        """Whether secrets can be kept at all."""
        return bool(self._keys)

    def seal(self, secret: str) -> str:
        """Return what goes on record.

        Raises:
            ConfigurationError: there is no key.

        """
        return self._all().encrypt(secret.encode()).decode()

    def open(self, sealed: str) -> Opened:
        """Return a secret that is on record.

        Raises:
            ConfigurationError: there is no key, or none that this was encrypted with.

        """
        every = self._all()
        token = sealed.encode()
        try:
            secret = every.decrypt(token).decode()
        except InvalidToken as error:
            message = "a secret on record was encrypted with a key that HEADRACE_SECRET_KEYS does not name any more"
            raise ConfigurationError(message) from error
        return Opened(secret, None if self._is_current(token) else every.rotate(token).decode())

    def _is_current(self, token: bytes) -> bool:
        try:
            self._keys[0].decrypt(token)
        except InvalidToken:
            return False
        return True

    def _all(self) -> MultiFernet:
        if not self._keys:
            message = f"HEADRACE_SECRET_KEYS is not set, so secrets cannot be kept or read: {_ADVICE}"
            raise ConfigurationError(message)
        return MultiFernet(self._keys)


def new_key() -> str:
    """Return a new key for `HEADRACE_SECRET_KEYS`."""
    return Fernet.generate_key().decode()


def _key(written: str, number: int) -> Fernet:
    try:
        return Fernet(written)
    except ValueError:
        message = f"key {number} of HEADRACE_SECRET_KEYS is not 32 bytes in URL-safe base64: {_ADVICE}"
        raise ConfigurationError(message) from None  # the cause could quote the key
