"""What a task declares about its runs, and what one call may set otherwise.

Owns the frozen value `Policy` and the check of a declaration: what no job could have stops the process at its start,
with the task's name. Never read a policy to decide about a job that is on record already, except where the job's own
row is silent: its row says what it was promised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import msgspec

from headrace.errors import ConfigurationError, InvalidInputError
from headrace.jobs.call import (
    DEFAULT_PRIORITY,
    DEFAULT_QUEUE,
    LONGEST_DELAY_SECONDS,
    Options,
    Overrides,
    require_sound,
)
from headrace.jobs.retry import DEFAULT_MAX_LOSSES, Retry

_DECODER: Final = msgspec.json.Decoder(Overrides)


class RunsIn(StrEnum):
    """Where a task's function runs."""

    LOOP = "loop"
    """On the worker's event loop: what is declared with `async def`."""
    THREAD = "thread"
    """In a thread of the worker: a plain function, which may block."""
    PROCESS = "process"
    """In a process of its own: a plain function that keeps a CPU busy, or must be killed when its time is up."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a task declares about its runs."""

    queue: str = DEFAULT_QUEUE
    priority: int = DEFAULT_PRIORITY
    retry: Retry = Retry()  # noqa: RUF009 - a frozen value
    timeout_seconds: float | None = 300.0
    aliases: tuple[str, ...] = ()
    """Names that the task had before: jobs on record under them are its own."""
    result: bool = True
    """Whether what the task returns is stored."""
    retention_seconds: float | None = None
    """How long after its end a job leaves the record; None for the retention of all."""
    on_dead: str | None = None
    """The task that is told when a job of this one is dead."""
    runs_in: RunsIn = RunsIn.LOOP

    def with_overrides(self, encoded: str | None) -> Policy:
        """Return the policy for a call that set some of it otherwise, given as the claim carries it."""
        if encoded is None:
            return self
        overrides = _DECODER.decode(encoded)
        retry, first, longest = self.retry, overrides.first_delay_seconds, overrides.max_delay_seconds
        return replace(
            self,
            retry=replace(
                retry,
                first_delay_seconds=retry.first_delay_seconds if first is None else first,
                max_delay_seconds=retry.max_delay_seconds if longest is None else longest,
            ),
            timeout_seconds=self.timeout_seconds if overrides.timeout_seconds is None else overrides.timeout_seconds,
        )

    def overrides_of(self, options: Options) -> Overrides | None:
        """Return what a call with these options tells the worker and the relay; None where it tells nothing."""
        losses = self.retry.max_losses
        overrides = Overrides(
            first_delay_seconds=options.first_delay_seconds,
            max_delay_seconds=options.max_delay_seconds,
            timeout_seconds=options.timeout_seconds,
            max_losses=None if losses == DEFAULT_MAX_LOSSES else losses,
        )
        return None if overrides == Overrides() else overrides


def require_sound_policy(name: str, policy: Policy) -> None:
    """Refuse a policy that no job can have.

    Raises:
        ConfigurationError: naming the task and each value that is wrong.

    """
    retry = policy.retry
    options = Options(
        queue=policy.queue,
        priority=policy.priority,
        max_attempts=retry.max_attempts,
        first_delay_seconds=retry.first_delay_seconds,
        max_delay_seconds=retry.max_delay_seconds,
        timeout_seconds=policy.timeout_seconds,
    )
    try:
        require_sound(options)
    except InvalidInputError as error:
        message = f"the task {name}: {error}"
        raise ConfigurationError(message) from error
    kept = policy.retention_seconds
    if retry.max_losses < 1:
        _refuse(name, "max_losses must be at least 1")
    if kept is not None and not (math.isfinite(kept) and 0 <= kept <= LONGEST_DELAY_SECONDS):
        _refuse(name, "retention_seconds must be 0 to ten years")
    if name in policy.aliases or len(set(policy.aliases)) < len(policy.aliases):
        _refuse(name, "each alias must be another name that it had before")


def _refuse(name: str, reason: str) -> None:
    message = f"the task {name}: {reason}"
    raise ConfigurationError(message)
