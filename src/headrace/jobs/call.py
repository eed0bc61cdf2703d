"""A call of a task that has not been made yet: what a producer hands to the record.

Owns the value `Call` and the protocol `Enqueueable` by which a transaction accepts tasks without knowing Taskiq.
A call is checked when it is built, so that what reaches the record can be decoded by the worker.
"""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import Final, ParamSpec, Protocol
from uuid import UUID

import msgspec

from headrace.database.states import JobState
from headrace.errors import FieldError, InvalidInputError

P = ParamSpec("P")

DEFAULT_QUEUE = "default"
DEFAULT_PRIORITY = 5
HIGHEST_PRIORITY = 9
MAX_ARGS_BYTES = 256 * 1024
LONGEST_KEY = 500
"""Characters of a key; PostgreSQL's indexes hold about 2,700 bytes."""
LONGEST_DELAY_SECONDS = 10 * 365 * 86_400.0

_SPAN: Final = "must be 0 to ten years"
_TOO_LONG: Final = f"must have {LONGEST_KEY} characters at most"
_SOME_SPAN: Final = "must be more than 0 and at most ten years"
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a call departs from the defaults of its task; None keeps the default."""

    queue: str | None = None
    priority: int | None = None
    """0 to 9, 9 first."""
    delay_seconds: float | None = None
    run_at: datetime | None = None
    expires_at: datetime | None = None
    """When the job, if it has not started by then, is given up as `expired`."""
    unique_key: str | None = None
    """At most one unfinished job of a task has this key; a second call returns the first one's job."""
    unique_seconds: float | None = None
    """How long the key is held besides, also by a job that has succeeded."""
    concurrency_key: str | None = None
    """Jobs of a queue with this key run one at a time, or as many at once as the queue's limits allow."""
    max_attempts: int | None = None
    first_delay_seconds: float | None = None
    """Bound of the delay after the first failure; it doubles with each further one."""
    max_delay_seconds: float | None = None
    timeout_seconds: float | None = None
    """How long one attempt may take."""
    tags: tuple[str, ...] = ()


def require_sound(options: Options) -> None:
    """Refuse options that no job can have.

    Raises:
        InvalidInputError: naming each field that is wrong.

    """
    wrong = [FieldError(field, message) for field, message, is_wrong in _rules(options) if is_wrong]
    if wrong:
        message = "; ".join(f"{error.field} {error.message}" for error in wrong)
        raise InvalidInputError(message, tuple(wrong))


def _rules(options: Options) -> list[tuple[str, str, bool]]:
    priority, attempts = options.priority, options.max_attempts
    texts = (options.queue, options.unique_key, options.concurrency_key, *options.tags)
    return [
        ("priority", "must be 0 to 9", priority is not None and not 0 <= priority <= HIGHEST_PRIORITY),
        ("max_attempts", "must be at least 1", attempts is not None and not 1 <= attempts < 2**31),
        ("delay_seconds", _SPAN, not _is_span(options.delay_seconds)),
        ("first_delay_seconds", _SPAN, not _is_span(options.first_delay_seconds)),
        ("max_delay_seconds", _SPAN, not _is_span(options.max_delay_seconds)),
        ("timeout_seconds", _SOME_SPAN, options.timeout_seconds == 0 or not _is_span(options.timeout_seconds)),
        ("unique_seconds", _SOME_SPAN, options.unique_seconds == 0 or not _is_span(options.unique_seconds)),
        ("unique_seconds", "needs a unique_key", options.unique_seconds is not None and options.unique_key is None),
        ("delay_seconds", "excludes run_at", options.delay_seconds is not None and options.run_at is not None),
        ("run_at", "needs a time zone", options.run_at is not None and options.run_at.tzinfo is None),
        ("expires_at", "needs a time zone", options.expires_at is not None and options.expires_at.tzinfo is None),
        ("queue", "must not be empty", options.queue == ""),
        ("unique_key", _TOO_LONG, len(options.unique_key or "") > LONGEST_KEY),
        ("concurrency_key", _TOO_LONG, len(options.concurrency_key or "") > LONGEST_KEY),
        ("options", "hold a text with NUL or a lone surrogate", not all(map(_is_storable, texts))),
    ]


def _is_span(seconds: float | None) -> bool:
    return seconds is None or (math.isfinite(seconds) and 0 <= seconds <= LONGEST_DELAY_SECONDS)


def _is_storable(text: str | None) -> bool:
    return text is None or ("\x00" not in text and not any("\ud800" <= char <= "\udfff" for char in text))


def holds_nul(encoded: bytes) -> bool:
    """Tell whether JSON holds the character NUL, which PostgreSQL refuses.

    That is `u0000` after an odd number of backslashes; after an even one it is a text about NUL.
    """
    return b"\\u0000" in encoded and _NUL.search(encoded) is not None


class Overrides(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one call sets otherwise than its task declares, read by the worker; None keeps the task's."""

    first_delay_seconds: float | None = None
    max_delay_seconds: float | None = None
    timeout_seconds: float | None = None
    max_losses: int | None = None


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A task's name, its arguments as encoded JSON, and how it should run."""

    task: str
    args: msgspec.Raw
    queue: str = DEFAULT_QUEUE
    priority: int = DEFAULT_PRIORITY
    max_attempts: int = 1
    delay_seconds: float | None = None
    run_at: datetime | None = None
    expires_at: datetime | None = None
    unique_key: str | None = None
    unique_seconds: float | None = None
    concurrency_key: str | None = None
    tags: tuple[str, ...] = ()
    parent_id: UUID | None = None
    on_dead: str | None = None
    """The task that is told when the job is dead."""
    retention_seconds: float | None = None
    """How long after its end the job leaves the record; None for the retention of all."""
    overrides: Overrides | None = None
    born: JobState | None = None
    """`retrying` or `dead`, where the first attempt was made before the job: a delivery that failed."""


class Enqueueable(Protocol[P]):
    """Anything that turns typed arguments into a call: a task, or a task with options."""

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call:
        """Build the call for these arguments."""
        ...
