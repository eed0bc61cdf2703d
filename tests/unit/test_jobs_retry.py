"""The retry policy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.jobs.retry import PermanentError, Retry


def test_bound_doubles_until_the_longest_delay() -> None:
    """Each failure doubles the bound of the delay, up to the maximum."""
    retry = Retry(first_delay_seconds=1.0, max_delay_seconds=10.0)

    bounds = [retry.bound_seconds(attempt) for attempt in range(1, 7)]

    assert bounds == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


@given(attempt=st.integers(1, 10_000))
def test_delay_stays_within_its_bound_after_any_number_of_attempts(attempt: int) -> None:
    """Jitter never leaves the bound, and no number of attempts overflows."""
    retry = Retry(first_delay_seconds=0.5, max_delay_seconds=600.0)

    delay = retry.delay_seconds(attempt)

    assert 0 <= delay <= retry.bound_seconds(attempt) <= 600.0


def test_delays_differ_when_many_fail_together() -> None:
    """Full jitter spreads those that failed at the same moment."""
    retry = Retry(first_delay_seconds=1.0)

    delays = {retry.delay_seconds(3) for _ in range(50)}

    assert len(delays) > 40


@pytest.mark.parametrize(
    ("retry", "error", "allowed"),
    [
        (Retry(), ValueError(), True),
        (Retry(on=(OSError,)), ConnectionResetError(), True),
        (Retry(on=(OSError,)), ValueError(), False),
        (Retry(never=(FileNotFoundError,)), FileNotFoundError(), False),
        (Retry(never=(FileNotFoundError,)), PermissionError(), True),
        (Retry(), PermanentError(), False),
        (Retry(), SystemExit(), False),
    ],
)
def test_allows_what_the_policy_names_when_an_attempt_fails(
    retry: Retry, error: BaseException, *, allowed: bool
) -> None:
    """`on` names what is tried again, `never` takes some of it away, and a PermanentError ends it always."""
    assert retry.allows(error) is allowed
