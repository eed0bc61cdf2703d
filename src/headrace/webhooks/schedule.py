"""When a webhook that did not take a delivery is called again: over days, and not all at once.

Owns the schedule of Standard Webhooks (5 s, 5 min, 30 min, 2, 5, 10, 14, 20 and 24 hours after one attempt until the
next, ten attempts in 75 hours), each delay spread by a tenth; and the reading of `Retry-After`, which goes before it.
Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from headrace.jobs.retry import Retry

DELAYS_SECONDS: Final = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
ATTEMPTS: Final = len(DELAYS_SECONDS) + 1
LONGEST_WAIT_SECONDS: Final = 86_400.0
"""Of what a server may ask for by Retry-After."""

_SPREAD: Final = 0.1


@dataclass(frozen=True, slots=True)
class OverDays(Retry):
    """A retry policy with a delay of its own for each attempt."""

    max_attempts: int = ATTEMPTS
    first_delay_seconds: float = DELAYS_SECONDS[0]
    max_delay_seconds: float = DELAYS_SECONDS[-1]

    def bound_seconds(self, attempt: int) -> float:
        """Return the delay after that many attempts, before it is spread."""
        return DELAYS_SECONDS[min(max(attempt, 1), len(DELAYS_SECONDS)) - 1]

    def delay_seconds(self, attempt: int) -> float:
        """Return the delay after that many attempts, up to a tenth shorter or longer."""
        return self.bound_seconds(attempt) * random.uniform(1 - _SPREAD, 1 + _SPREAD)  # noqa: S311 - jitter, not a secret


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """Return how long a server asks to be left alone, at most a day; None where it says nothing that can be read.

    RFC 9110, 10.2.3: a number of seconds, or a date.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdecimal():
        return min(float(text[:9]), LONGEST_WAIT_SECONDS)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - now).total_seconds(), 0.0), LONGEST_WAIT_SECONDS)
