"""What the record says about limits: sweeps over the times at which jobs started and ended.

Owns two questions of a list of times: how many were there at once at the busiest instant, and how many starts did the
busiest window of a length hold. Both are exact and look at every instant, not at samples. An interval includes its
start and not its end, so that a job which starts at the instant another one ended runs after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

Interval = tuple[datetime, datetime]


def most_at_once(intervals: Iterable[Interval]) -> int:
    """Return the largest number of intervals that share an instant."""
    changes = sorted(change for begin, end in intervals for change in ((begin, 1), (end, -1)) if begin < end)
    most = now = 0
    for _, change in changes:  # at one instant the ends come first
        now += change
        most = max(most, now)
    return most


def most_within(starts: Iterable[datetime], seconds: float) -> int:
    """Return the largest number of starts in any window of a length that includes its begin and not its end."""
    ordered: Sequence[datetime] = sorted(starts)
    length = timedelta(seconds=seconds)
    most = first = 0
    for last, at in enumerate(ordered):
        while at - ordered[first] >= length:
            first += 1
        most = max(most, last - first + 1)
    return most
