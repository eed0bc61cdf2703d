"""The history checker of events: what was accepted, held against what every subscription did.

Producers write down what was committed, in the order of their commits; subscriptions what they did, through their
session and outside. `check_events` names every difference, subscription by subscription: nothing is sampled. Numbers of
a key go up by one with each event of it, so that order is seen in the numbers. What a subscription did twice outside is
counted and is no fault: it carries an idempotency key, and at least once is what was promised. It is pure, so that its
own tests can show it a history with a fault.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum

import msgspec

Heard = tuple[str, int]
"""A key, and the number of an event of it."""


class Did(msgspec.Struct, frozen=True, kw_only=True):
    """What one subscription did, each in its order."""

    through_session: Sequence[Heard] | None = None
    """What stands on record; None for a subscription that writes nothing there."""
    outside: Sequence[Heard] | None = None
    """What it did in the world outside; None for one that does nothing there."""
    in_order: bool = True
    """Whether its order is promised."""


class Wrong(StrEnum):
    """What may be wrong with a history of events."""

    LOST = "lost"
    """Accepted, and not handled by a subscription."""
    TWICE = "twice"
    """An effect through the session that is there more than once."""
    INVERTED = "inverted"
    """Handled before an earlier event of its key."""
    STRAY = "stray"
    """Handled, and accepted by nobody."""


class Fault(msgspec.Struct, frozen=True):
    """One difference."""

    wrong: Wrong
    subscription: str
    about: Heard


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of a history and its faults."""

    accepted: int
    keys: int
    handled: Mapping[str, int]
    """How many different events each subscription has handled."""
    duplicates_outside: Mapping[str, int]
    """How often each subscription did something outside again."""
    faults: tuple[Fault, ...]

    def count(self, wrong: Wrong) -> int:
        """Return how many faults are of a kind."""
        return sum(fault.wrong is wrong for fault in self.faults)


def check_events(accepted: Sequence[Heard], did: Mapping[str, Did]) -> Verdict:
    """Hold what every subscription did against what was accepted."""
    promised = set(accepted)
    faults = [fault for name, one in did.items() for fault in _faults(promised, name, one)]
    return Verdict(
        accepted=len(promised),
        keys=len({key for key, _ in promised}),
        handled={name: len(set(_evidence(one))) for name, one in did.items()},
        duplicates_outside={
            name: len(one.outside) - len(set(one.outside)) for name, one in did.items() if one.outside is not None
        },
        faults=tuple(faults),
    )


def _faults(promised: set[Heard], name: str, did: Did) -> Iterator[Fault]:
    evidence = _evidence(did)
    handled = set(evidence)
    yield from (Fault(Wrong.LOST, name, one) for one in sorted(promised - handled))
    yield from (Fault(Wrong.STRAY, name, one) for one in sorted(handled - promised))
    for one, times in Counter(did.through_session or ()).items():
        if times > 1:
            yield Fault(Wrong.TWICE, name, one)
    if did.in_order:
        yield from (Fault(Wrong.INVERTED, name, one) for one in _inverted(evidence))


def _evidence(did: Did) -> Sequence[Heard]:
    """Return what says that an event was handled: the world outside where it says more than the record."""
    return did.outside if did.through_session is None and did.outside is not None else (did.through_session or ())


def _inverted(handled: Sequence[Heard]) -> Iterator[Heard]:
    """Find what was handled for the first time after a later event of its key."""
    furthest: dict[str, int] = {}
    seen: set[Heard] = set()
    for key, number in handled:
        if (key, number) in seen:
            continue
        seen.add((key, number))
        if number < furthest.get(key, -1):
            yield key, number
        furthest[key] = max(number, furthest.get(key, -1))
