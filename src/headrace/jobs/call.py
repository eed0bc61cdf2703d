"""A call of a task that has not been made yet: what a producer hands to the record.

Owns the value `Call` and the protocol `Enqueueable` by which a transaction accepts tasks without knowing Taskiq.
A call is checked when it is built, so that what reaches the record can be decoded by the worker.
"""

from __future__ import annotations

from datetime import datetime
from typing import ParamSpec, Protocol
from uuid import UUID

import msgspec

P = ParamSpec("P")

DEFAULT_QUEUE = "default"
DEFAULT_PRIORITY = 5
MAX_ARGS_BYTES = 256 * 1024


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
    concurrency_key: str | None = None
    max_attempts: int | None = None
    tags: tuple[str, ...] = ()


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
    concurrency_key: str | None = None
    tags: tuple[str, ...] = ()
    parent_id: UUID | None = None


class Enqueueable(Protocol[P]):
    """Anything that turns typed arguments into a call: a task, or a task with options."""

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call:
        """Build the call for these arguments."""
        ...
