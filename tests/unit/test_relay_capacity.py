"""How much room a stream has, from what is acknowledged and where it ends."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from headrace.relay.capacity import Capacity


@pytest.fixture
def capacity() -> Capacity:
    """Room for ten entries; lane 0 is acknowledged up to 5 and ends at 12."""
    made = Capacity(10)
    made.know_floors({0: (5, "shop.slow"), 1: (0, None)})
    made.ends[0] = 12
    return made


def test_room_is_what_is_left_above_the_slowest(capacity: Capacity) -> None:
    """Seven entries are held of ten."""
    assert capacity.room(0) == 3
    assert capacity.fits(0, 13, 3)
    assert not capacity.fits(0, 13, 4)


def test_nothing_fits_when_it_does_not_follow_the_end(capacity: Capacity) -> None:
    """What lies between would be missing."""
    assert not capacity.fits(0, 14, 1)


def test_there_is_no_room_when_the_end_of_a_stream_is_unknown(capacity: Capacity) -> None:
    """It has to be looked at first."""
    assert capacity.room(1) == 0
    assert not capacity.fits(1, 1, 1)


def test_full_lane_is_told_of_once_when_it_is_met_again_and_again(capacity: Capacity) -> None:
    """With who holds it; and again when it has room and is full another time."""
    with capture_logs() as logs:
        capacity.full(0, "why")
        capacity.full(0, "why")
        capacity.caught_up(0)
        capacity.caught_up(0)
        capacity.full(0, "why")

    assert [log["event"] for log in logs] == ["lane_full", "lane_has_room", "lane_full"]
    assert logs[0]["held_by"] == "shop.slow"
