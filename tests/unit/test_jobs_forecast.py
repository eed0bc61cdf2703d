"""When a job may start, worked out from what is ahead of it: no stores, no time."""

from __future__ import annotations

import msgspec
import pytest

from headrace.jobs.forecast import Forecast, Line, Rated, Seconds, forecast

BUSY = Line(position=101, ahead=90, in_flight=10, slots=10, pace=20.0)


def start_of(line: Line) -> Seconds:
    """Return the estimate of a line that has one."""
    start = forecast(line).start_in_seconds
    assert start is not None
    return start


def test_job_starts_at_once_when_a_slot_is_free() -> None:
    """Whatever the pace: nothing must end first."""
    found = forecast(Line(position=1, ahead=0, in_flight=9, slots=10, pace=None))

    assert found == Forecast(1, Seconds(0.0, 0.05, 1.0), "a worker has room for it")


def test_job_starts_after_those_ahead_when_all_slots_are_taken() -> None:
    """What must end is divided by the pace, and the range holds the likely time."""
    start = start_of(BUSY)

    assert start.likely == pytest.approx(91 / 20, abs=0.01)
    assert 0 < start.low < start.likely < start.high


def test_range_is_wider_when_few_jobs_must_end() -> None:
    """Chance decides about one job more than about a hundred."""
    few = start_of(msgspec.structs.replace(BUSY, ahead=0))
    many = start_of(BUSY)

    assert few.likely / few.low > many.likely / many.low


def test_nothing_is_said_when_nothing_can_be_known() -> None:
    """A pause, or a queue of which no job has ended yet: the place is told, and why there is no estimate."""
    paused = forecast(msgspec.structs.replace(BUSY, unknowable="the queue is paused"))
    unmeasured = forecast(msgspec.structs.replace(BUSY, pace=None))

    assert paused == Forecast(101, None, "the queue is paused")
    assert unmeasured.start_in_seconds is None
    assert "pace is not known" in unmeasured.basis


def test_job_is_never_early_when_it_is_not_due() -> None:
    """The due time is the least; what is ahead is worked off meanwhile."""
    far = start_of(msgspec.structs.replace(BUSY, position=None, due_in_seconds=60.0))
    near = start_of(msgspec.structs.replace(BUSY, position=None, due_in_seconds=0.5))

    assert (far.low, far.high) == (60.0, 61.0)
    assert near.likely == start_of(BUSY).likely


@pytest.mark.parametrize(
    ("ahead", "opens", "low", "high"), [(0, 0.0, 0.0, 1.0), (0, 7.0, 7.0, 8.0), (25, 7.0, 17.0, 38.0)]
)
def test_rate_is_waited_for_when_it_is_slower_than_the_workers(
    ahead: int, opens: float, low: float, high: float
) -> None:
    """Whole windows pass for those ahead."""
    line = Line(position=1, ahead=ahead, in_flight=0, slots=100, pace=50.0, rated=Rated(10, 10.0, opens))

    start = start_of(line)

    assert start.low == pytest.approx(low)
    assert start.high == pytest.approx(high)


def test_nothing_is_said_when_a_key_is_busy() -> None:
    """How long the holders of a key run, nobody knows: not even the pace of the queue says it."""
    line = Line(position=1, ahead=0, in_flight=1, slots=20, pace=50.0, ahead_of_key=2)

    found = forecast(line)

    assert found.start_in_seconds is None
    assert "2 jobs with its concurrency key must end first" in found.basis
