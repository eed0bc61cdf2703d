"""The few errors of Headrace, each with another consequence.

Owns the exceptions that cross a station. Whoever catches one knows from its class what happens next:
the caller mends the input (`InvalidInput`), waits (`Unavailable`), picks another resource (`NotFound`, `Conflict`),
or an operator mends the deployment (`ConfigurationError`, `SchemaMismatch`).
Never raise one of these for a fault of Headrace itself: let that crash where it happens.
"""

from __future__ import annotations

import msgspec


class HeadraceError(Exception):
    """Anything that Headrace raises on purpose."""


class ConfigurationError(HeadraceError):
    """The deployment is wrong: the process must not start. The message says what to change."""


class SchemaMismatchError(ConfigurationError):
    """The database schema does not fit this code. The message names the command that mends it."""


class FieldError(msgspec.Struct, frozen=True):
    """One thing wrong with the input: `field` is a dotted path such as `args.order_id`, "" for the whole."""

    field: str
    message: str


class InvalidInputError(HeadraceError):
    """The caller's input has the wrong shape or value; the same call can never succeed."""

    def __init__(self, message: str, errors: tuple[FieldError, ...] = ()) -> None:
        super().__init__(message)
        self.errors = errors


class TooLargeError(InvalidInputError):
    """The input is larger than what is kept on record: a reference to it belongs there."""


class NotFoundError(HeadraceError):
    """Nothing has this identity."""


class ConflictError(HeadraceError):
    """The request is valid but not in the current state of what it names."""


class UnavailableError(HeadraceError):
    """A store is away; the same call can succeed after `retry_after_seconds`."""

    def __init__(self, message: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class FencedError(HeadraceError):
    """Somebody else owns this work by now: the writer must roll back and forget it."""
