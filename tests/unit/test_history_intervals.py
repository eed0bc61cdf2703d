"""The sweeps that limits are measured by."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.intervals import Interval, most_at_once, most_within

ORIGIN = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """Return an instant."""
    return ORIGIN + timedelta(seconds=seconds)


def between(begin: float, end: float) -> Interval:
    """Return an interval."""
    return at(begin), at(end)


@pytest.mark.parametrize(
    ("intervals", "most"),
    [
        ([], 0),
        ([between(0, 1)], 1),
        ([between(0, 1), between(1, 2)], 1),
        ([between(0, 2), between(1, 3), between(1.5, 1.6)], 3),
        ([between(0, 9), between(1, 2), between(3, 4)], 2),
        ([between(1, 1), between(1, 2)], 1),
    ],
)
def test_most_at_once_is_the_busiest_instant(intervals: list[Interval], most: int) -> None:
    """One that starts when another ends does not overlap with it, and one of no length with none."""
    assert most_at_once(intervals) == most


@pytest.mark.parametrize(
    ("starts", "seconds", "most"),
    [([], 1, 0), ([0], 1, 1), ([0, 1], 1, 1), ([0, 0.99], 1, 2), ([0, 0.6, 1.2, 1.3], 1, 3), ([3, 1, 2], 10, 3)],
)
def test_most_within_is_the_busiest_window(starts: list[float], seconds: float, most: int) -> None:
    """The window slides: it is not a calendar's second. Its end belongs to the next one."""
    assert most_within(map(at, starts), seconds) == most


@given(pairs=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9)), max_size=12))
def test_sweep_finds_what_looking_at_every_instant_finds(pairs: list[tuple[int, int]]) -> None:
    """On whole seconds every instant can be looked at."""
    intervals = [between(begin, begin + length) for begin, length in pairs]

    most = most_at_once(intervals)

    looked_at = [sum(begin <= at(second) < end for begin, end in intervals) for second in range(30)]
    assert most == max(looked_at)
