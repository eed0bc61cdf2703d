"""The values of a job's road: what is released, what a worker holds, how an attempt ended.

Owns `Claim` (also the belt's entry) and `Outcome`, the frozen decision about one attempt. An outcome is decided
once, by the worker, and recorded elsewhere; it says nothing about who may record it: the fence does.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec

from headrace.database.states import JobState

Key = tuple[UUID, int]
"""One attempt for good: the job and its fence."""


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """One attempt of a job: what the dispatcher puts on the belt and, once the claim is won, what a worker runs."""

    job_id: UUID
    fence: Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
    attempt: int
    """The number of the attempt that this claim begins, 1 for the first."""
    max_attempts: int
    task: str
    queue: str
    args: str
    """The arguments as JSON text."""
    traceparent: str
    created_at: datetime
    overrides: str | None = None
    """What the call set otherwise than the task declares, as JSON text of `Overrides`."""

    @property
    def key(self) -> Key:
        """Which attempt this is."""
        return self.job_id, self.fence


class Failure(msgspec.Struct, frozen=True):
    """Why an attempt did not succeed, as one of the job's `errors`."""

    outcome: str
    """`failed`, `timed_out`, `cancelled`, `rejected`, or `lost` where nobody knows how the attempt ended."""
    type: str
    message: str
    traceback: str
    trace_id: str
    fingerprint: str | None = None
    """Which failures are the same; None where there was no exception."""


class Outcome(msgspec.Struct, frozen=True):
    """How an attempt ended and where the job goes from here."""

    job_id: UUID
    fence: int
    state: JobState
    result: str | None = None
    """The returned value as JSON text."""
    delay_seconds: float | None = None
    """How long a job that is tried again waits."""
    refund: bool = False
    """Whether the attempt is not counted: it was handed back and not run to its end."""
    failure: Failure | None = None

    @property
    def key(self) -> Key:
        """Which attempt this is about."""
        return self.job_id, self.fence
