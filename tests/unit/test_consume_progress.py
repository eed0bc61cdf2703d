"""The arithmetic of positions, and the equal sharing of lanes."""

from __future__ import annotations

import random
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.subscribers.ownership import Survey
from headrace.subscribers.progress import Progress

LANES = (0, 1, 2, 3)


@given(st.lists(st.integers(1, 60), unique=True), st.randoms())
def test_position_is_contiguous_when_things_are_done_in_any_order(done: list[int], chance: random.Random) -> None:
    """The position is the longest run from the checkpoint, whatever the order and the portions."""
    progress = Progress(0)
    progress.take(60)
    chance.shuffle(done)

    for place in range(0, len(done), 3):
        progress.done(done[place : place + 3])

    expected = next(number for number in range(61) if number + 1 not in done)
    assert progress.position == expected
    assert progress.in_flight == 60 - len(done)


def test_position_stays_when_something_is_done_twice() -> None:
    """What lies before the position is passed over."""
    progress = Progress(5)
    progress.take(7)

    progress.done([6, 6, 3, 6])

    assert (progress.position, progress.in_flight) == (6, 1)


@pytest.mark.parametrize("readers", range(1, 7))
def test_every_lane_has_one_reader_when_shares_are_equal(readers: int) -> None:
    """Shares differ by one at most and add up to the lanes."""
    ids = [UUID(int=number) for number in range(readers)]
    survey = Survey(lanes=LANES, paused=(), busy=(), peers={str(one): ["a"] for one in ids})

    shares = [survey.share_of(one, "a") for one in ids]

    assert sum(shares) == len(LANES)
    assert max(shares) - min(shares) <= 1


def test_share_counts_only_those_who_read_when_processes_have_chosen() -> None:
    """A process that runs other subscriptions takes no part in this one's sharing."""
    mine, other = UUID(int=1), UUID(int=2)
    survey = Survey(lanes=LANES, paused=("c",), busy=(), peers={str(mine): ["a", "b", "c"], str(other): ["b"]})

    assert survey.share_of(mine, "a") == 4
    assert survey.share_of(mine, "b") == 2
    assert survey.share_of(mine, "c") == 0


def test_holder_counts_itself_when_its_own_presence_is_not_seen() -> None:
    """A consumer whose row has not come, or run out, still takes its part."""
    survey = Survey(lanes=LANES, paused=(), busy=(), peers={})

    assert survey.share_of(UUID(int=1), "a") == 4
