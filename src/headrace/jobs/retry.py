"""When a failed attempt is tried again.

Owns the retry policy of a task or a subscriber: a frozen value that answers one question, `next_delay`. The delay is
exponential with full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
Never sleep for a retry inside a worker: the delay is a time on record, and the job waits there.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


class PermanentError(Exception):
    """Raise this, or a subclass, in a task to say that no further attempt can succeed: the job is dead at once."""


@dataclass(frozen=True, slots=True)
class Retry:
    """A retry policy.

    Args:
        max_attempts: attempts in all, the first included.
        first_delay_seconds: bound of the delay after the first failure; it doubles with each further one.
        max_delay_seconds: where the doubling ends.
        on: exceptions that are tried again; any other one makes the job dead.
        never: exceptions that are not tried again although `on` names a base class of theirs.

    """

    max_attempts: int = 10
    first_delay_seconds: float = 1.0
    max_delay_seconds: float = 600.0
    on: tuple[type[Exception], ...] = (Exception,)
    never: tuple[type[Exception], ...] = ()

    def allows(self, error: BaseException) -> bool:
        """Tell whether this error is worth another attempt, whatever their number."""
        return isinstance(error, self.on) and not isinstance(error, (PermanentError, *self.never))

    def bound_seconds(self, attempt: int) -> float:
        """Return the longest delay after that many attempts (1 or more)."""
        return min(self.max_delay_seconds, self.first_delay_seconds * 2.0 ** min(attempt - 1, 40))

    def delay_seconds(self, attempt: int) -> float:
        """Return a random delay after that many attempts: uniform up to the bound."""
        return random.uniform(0, self.bound_seconds(attempt))  # noqa: S311 - jitter, not a secret
