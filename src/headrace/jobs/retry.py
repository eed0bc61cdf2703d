"""When a failed attempt is tried again, and what a task may wish instead.

Owns the retry policy of a task or a subscriber: a frozen value that says whether an error is worth another attempt, and
after what delay. The delay is exponential with full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS
Architecture Blog, 2015). Owns also what a task may return or raise that is neither a result nor an error: `Snooze` and
`Cancel`.
Never sleep for a retry inside a worker: the delay is a time on record, and the job waits there.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Final

from headrace.jobs.call import LONGEST_DELAY_SECONDS

DEFAULT_MAX_LOSSES: Final = 3
"""How many workers may die under a job before it is taken for what kills them."""


class PermanentError(Exception):
    """Raise this, or a subclass, in a task to say that no further attempt can succeed: the job is dead at once."""


class Snooze(Exception):  # noqa: N818 - a wish, and no error
    """Return or raise this in a task to be run again after that many seconds; the attempt is not counted.

    Returned, what the task wrote through its session commits; raised, it is rolled back.

    Raises:
        ValueError: the seconds are negative, not finite, or over ten years.

    Example:
        >>> @task("shop.await_payment")
        ... async def await_payment(run: Run, order_id: UUID) -> str | Snooze:
        ...     return "paid" if await is_paid(order_id) else Snooze(60)

    """

    def __init__(self, seconds: float) -> None:
        if not (math.isfinite(seconds) and 0 <= seconds <= LONGEST_DELAY_SECONDS):
            message = f"a job can be snoozed for 0 seconds to ten years, not for {seconds}"
            raise ValueError(message)
        super().__init__(f"again in {seconds} s")
        self.seconds = float(seconds)


class Cancel(Exception):  # noqa: N818 - a wish, and no error
    """Return or raise this in a task to end the job as `cancelled`: there is nothing to do any more.

    The reason is on record. Returned, what the task wrote through its session commits; raised, it is rolled back.
    """

    def __init__(self, reason: str = "the task had nothing to do any more") -> None:
        super().__init__(reason)
        self.reason = reason


class RetryAfterError(Exception):
    """Raise this, or a subclass, to say when the next attempt is worth while: in place of the policy's delay.

    The attempt counts as failed. For a server that is busy and says until when, such as by `Retry-After`.
    """

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = min(max(seconds, 0.0), LONGEST_DELAY_SECONDS) if math.isfinite(seconds) else 0.0


@dataclass(frozen=True, slots=True)
class Retry:
    """A retry policy.

    Args:
        max_attempts: attempts in all, the first included.
        first_delay_seconds: bound of the delay after the first failure; it doubles with each further one.
        max_delay_seconds: where the doubling ends.
        on: exceptions that are tried again; any other one makes the job dead.
        never: exceptions that are not tried again although `on` names a base class of theirs.
        max_losses: at how many workers that died or lost their lease under the job it is dead, as `Quarantined`.

    """

    max_attempts: int = 10
    first_delay_seconds: float = 1.0
    max_delay_seconds: float = 600.0
    on: tuple[type[Exception], ...] = (Exception,)
    never: tuple[type[Exception], ...] = ()
    max_losses: int = DEFAULT_MAX_LOSSES

    def allows(self, error: BaseException) -> bool:
        """Tell whether this error is worth another attempt, whatever their number."""
        return isinstance(error, self.on) and not isinstance(error, (PermanentError, *self.never))

    def bound_seconds(self, attempt: int) -> float:
        """Return the longest delay after that many attempts (1 or more)."""
        return min(self.max_delay_seconds, self.first_delay_seconds * 2.0 ** min(attempt - 1, 40))

    def delay_seconds(self, attempt: int) -> float:
        """Return a random delay after that many attempts: uniform up to the bound."""
        return random.uniform(0, self.bound_seconds(attempt))  # noqa: S311 - jitter, not a secret

    def delay_after(self, error: BaseException, attempt: int) -> float:
        """Return the delay after that many attempts of which this error ended the last one."""
        return error.seconds if isinstance(error, RetryAfterError) else self.delay_seconds(attempt)
