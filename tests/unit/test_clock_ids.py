"""Ids that rise with time."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from uuid import RFC_4122

import pytest

from headrace.clock import IdSource, first_id_at, new_id, now, time_of, told_by


def test_ids_rise_strictly_when_made_faster_than_the_clock() -> None:
    """Twenty thousand ids, many in each millisecond, are in order and different."""
    source = IdSource()

    ids = [source.new() for _ in range(20_000)]

    assert ids == sorted(set(ids))


def test_ids_are_version_7_of_rfc_9562() -> None:
    """Version and variant stand where the standard wants them."""
    made = new_id()

    assert (made.version, made.variant) == (7, RFC_4122)


def test_ids_rise_when_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is set back does not disorder what one process makes."""
    source = IdSource()
    before = source.new()
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)

    after = source.new()

    assert after > before


def test_time_of_an_id_is_when_it_was_made() -> None:
    """The time can be read back, to the millisecond."""
    begin = now() - timedelta(milliseconds=1)

    made = time_of(IdSource().new())

    assert begin <= made <= now() + timedelta(milliseconds=1)


def test_first_id_at_bounds_the_ids_of_that_moment() -> None:
    """The bound of a range over ids is not above the ids made at its beginning."""
    moment = datetime.fromtimestamp(int(now().timestamp()), UTC)

    bound = first_id_at(moment)

    assert time_of(bound) == moment
    assert bound <= new_id()
    assert first_id_at(moment - timedelta(milliseconds=1)) < bound


def test_bound_is_the_smallest_id_when_the_time_is_before_all_ids() -> None:
    """A range that begins before 1970 begins with the first id, and is no error."""
    assert first_id_at(datetime(1, 1, 1, tzinfo=UTC)).int == 0


def test_now_is_what_is_told_within_the_block_alone() -> None:
    """The clock of a test tells the time where it is asked to, and the system's does again after it."""
    long_ago = datetime(2001, 1, 1, tzinfo=UTC)

    with told_by(lambda: long_ago):
        within = now()

    assert within == long_ago
    assert now() > long_ago + timedelta(days=365)
