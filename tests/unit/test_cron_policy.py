"""What becomes of due times under the policies."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from headrace.cron.policy import CATCH_UP_LIMIT, ON_TIME, Decision, Due, decide
from headrace.jobs.schedule import Misfire, Overlap

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
LATE = timedelta(minutes=2)
AT_ONCE = timedelta(seconds=1)


def due_times(number: int, *, last_before: timedelta) -> list[datetime]:
    """Return that many due times, a minute apart, the last one that long before now."""
    return [NOW - last_before - timedelta(minutes=number - 1 - index) for index in range(number)]


def outcomes(decisions: Sequence[Decision]) -> list[str]:
    """Return what the ledger will say, oldest first."""
    return [decision.outcome.value for decision in decisions]


@pytest.mark.parametrize(
    ("misfire", "last_before", "expected"),
    [
        (Misfire.SKIP, AT_ONCE, ["skipped", "skipped", "fired"]),
        (Misfire.SKIP, LATE, ["skipped", "skipped", "skipped"]),
        (Misfire.ONCE, AT_ONCE, ["skipped", "skipped", "fired"]),
        (Misfire.ONCE, LATE, ["skipped", "skipped", "caught_up"]),
        (Misfire.ALL, AT_ONCE, ["caught_up", "caught_up", "fired"]),
        (Misfire.ALL, LATE, ["caught_up", "caught_up", "caught_up"]),
    ],
)
def test_missed_times_follow_the_misfire_policy_when_a_clock_comes_back(
    misfire: Misfire, last_before: timedelta, expected: list[str]
) -> None:
    """The last due time fires if it is met; what was missed is let go, made up for once, or for each."""
    times = due_times(3, last_before=last_before)

    decisions = decide(Due(times=times, now=NOW, misfire=misfire))

    assert outcomes(decisions) == expected
    assert [decision.due_at for decision in decisions] == times
    assert all((decision.job_id is None) == (decision.outcome == "skipped") for decision in decisions)
    assert all((decision.reason is not None) == (decision.outcome == "skipped") for decision in decisions)


@pytest.mark.parametrize("misfire", Misfire)
def test_a_due_time_fires_whatever_the_misfire_policy_when_it_is_met(misfire: Misfire) -> None:
    """A clock that looks within the time a restart takes has missed nothing."""
    decisions = decide(Due(times=[NOW - ON_TIME], now=NOW, misfire=misfire))

    assert outcomes(decisions) == ["fired"]


def test_only_the_last_missed_times_are_made_up_for_when_there_are_too_many() -> None:
    """A long absence does not bury the queue, and the ledger says what was let go."""
    decisions = decide(Due(times=due_times(CATCH_UP_LIMIT + 20, last_before=LATE), now=NOW, misfire=Misfire.ALL))

    assert outcomes(decisions) == ["skipped"] * 20 + ["caught_up"] * CATCH_UP_LIMIT
    assert "100" in (decisions[0].reason or "")


@pytest.mark.parametrize("misfire", Misfire)
def test_nothing_fires_when_the_last_due_time_is_still_to_be_looked_at(misfire: Misfire) -> None:
    """The first part of a very long absence is let go whatever the policy; the part that may fire comes later."""
    decisions = decide(Due(times=due_times(3, last_before=LATE), more=True, now=NOW, misfire=misfire))

    assert outcomes(decisions) == ["skipped"] * 3


def test_a_due_time_is_skipped_with_the_reason_when_the_last_job_is_unfinished() -> None:
    """Overlap `skip` names the job that it waits for."""
    running = uuid4()

    (decision,) = decide(Due(times=[NOW], now=NOW, overlap=Overlap.SKIP, busy_with=running))

    assert decision.outcome == "skipped"
    assert decision.job_id is None
    assert str(running) in (decision.reason or "")


def test_a_due_time_fires_when_overlap_is_allowed_and_the_last_job_is_unfinished() -> None:
    """Overlap `allow` does not look at the last job."""
    (decision,) = decide(Due(times=[NOW], now=NOW, busy_with=uuid4()))

    assert decision.outcome == "fired"


def test_only_the_first_fires_when_all_are_made_up_for_and_overlap_is_forbidden() -> None:
    """The job of the first catch-up is unfinished at the second."""
    due = Due(times=due_times(3, last_before=LATE), now=NOW, misfire=Misfire.ALL, overlap=Overlap.SKIP)

    decisions = decide(due)

    assert outcomes(decisions) == ["caught_up", "skipped", "skipped"]
    assert "overlap" in (decisions[1].reason or "")
