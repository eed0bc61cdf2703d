"""The pace of a replay: how many events at once, and how long until the next ones."""

from __future__ import annotations

import time

from headrace.subscribers.metre import Metre


def test_portions_are_whole_when_there_is_no_rate() -> None:
    """Nothing bounds them but what is asked for."""
    assert Metre(None).portion(500) == 500


def test_portions_are_a_quarter_of_a_second_when_there_is_a_rate() -> None:
    """A slow replay is slow evenly, by one event at the least; a fast one takes no more than is asked for."""
    assert [Metre(rate).portion(500) for rate in (0.5, 40.0, 1_000_000.0)] == [1, 10, 500]


async def test_events_pass_at_the_rate_when_there_is_one() -> None:
    """Ten portions of five at 500 in a second take no less than the time of nine: the first need not wait."""
    metre = Metre(500.0)
    began_at = time.monotonic()

    for _ in range(10):
        await metre.pass_(5)

    assert time.monotonic() - began_at >= 0.085
