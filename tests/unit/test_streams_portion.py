"""How many entries move at a time."""

from __future__ import annotations

from headrace.streams.portion import BUDGET_BYTES, FIRST, Portion


def test_portion_grows_to_its_most_when_entries_are_light() -> None:
    """Full and light portions double, up to the bound."""
    portion = Portion(500)

    for _ in range(10):
        portion.moved(portion.count, 1000)

    assert portion.count == 500


def test_portion_stays_when_it_was_not_full() -> None:
    """A trickle says nothing about how much can move at a time."""
    portion = Portion(500)

    portion.moved(3, 300)

    assert portion.count == FIRST


def test_portion_shrinks_at_once_when_entries_are_heavy() -> None:
    """A portion over the budget is followed by a smaller one, and never by none."""
    portion = Portion(500)
    portion.moved(FIRST, BUDGET_BYTES + 1)
    heavy = portion.count

    for _ in range(10):
        portion.moved(1, BUDGET_BYTES + 1)

    assert heavy < FIRST
    assert portion.count == 1
