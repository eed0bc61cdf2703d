"""The checker of event histories sees each kind of fault, and nothing where there is none."""

from __future__ import annotations

import pytest

from tests.event_history import Did, Heard, Wrong, check_events

ACCEPTED: list[Heard] = [("a", 0), ("b", 0), ("a", 1), ("a", 2), ("b", 1)]


def test_nothing_is_wrong_when_every_key_was_handled_in_order() -> None:
    """Keys may overtake one another."""
    verdict = check_events(ACCEPTED, {"s": Did(through_session=sorted(ACCEPTED, reverse=False))})

    assert verdict.faults == ()
    assert (verdict.accepted, verdict.keys, verdict.handled) == (5, 2, {"s": 5})


@pytest.mark.parametrize(
    ("did", "wrong", "about"),
    [
        (ACCEPTED[1:], Wrong.LOST, ("a", 0)),
        ([*ACCEPTED, ("b", 1)], Wrong.TWICE, ("b", 1)),
        ([*ACCEPTED, ("c", 0)], Wrong.STRAY, ("c", 0)),
        ([("a", 0), ("b", 0), ("a", 2), ("a", 1), ("b", 1)], Wrong.INVERTED, ("a", 1)),
    ],
)
def test_fault_is_named_when_there_is_one(did: list[Heard], wrong: Wrong, about: Heard) -> None:
    """With the subscription and the event."""
    verdict = check_events(ACCEPTED, {"fine": Did(through_session=ACCEPTED), "s": Did(through_session=did)})

    assert [(fault.wrong, fault.subscription, fault.about) for fault in verdict.faults] == [(wrong, "s", about)]


def test_repeats_outside_are_counted_when_they_happen() -> None:
    """At least once is what was promised there: a repeat is neither a fault nor an inversion."""
    verdict = check_events(ACCEPTED, {"s": Did(outside=[*ACCEPTED[:4], *ACCEPTED])})

    assert verdict.faults == ()
    assert verdict.duplicates_outside == {"s": 4}


def test_order_is_not_asked_for_when_it_was_not_promised() -> None:
    """What fails in a subscription that is not ordered is handled later than what follows it."""
    backwards = list(reversed(ACCEPTED))

    assert check_events(ACCEPTED, {"s": Did(through_session=backwards, in_order=False)}).faults == ()
    assert check_events(ACCEPTED, {"s": Did(through_session=backwards)}).count(Wrong.INVERTED) == 3
