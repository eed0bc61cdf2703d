"""What becomes of each due time: the misfire and the overlap policy.

Owns the decision, a frozen value per due time, made once and recorded elsewhere. The last due time is met if the clock
looks within `ON_TIME`; the ones before it, and a last one that is older, were missed. `skip` lets the missed ones go;
`once` makes up for all of them by one fire, that of the last; `all` makes up for each, oldest first, but for no more
than the last `CATCH_UP_LIMIT`, so that a long absence does not bury the queue. Every due time gets its decision, and
one that is let go says why. With overlap `skip` nothing fires while the job of the last fire is unfinished.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec

from headrace.clock import new_id
from headrace.jobs.schedule import Misfire, Overlap

ON_TIME: Final = timedelta(seconds=10)
"""How late a fire may be without being one that was missed: the time that a restart takes."""

CATCH_UP_LIMIT: Final = 100


class RunOutcome(StrEnum):
    """What the ledger says of a due time."""

    FIRED = "fired"
    SKIPPED = "skipped"
    CAUGHT_UP = "caught_up"


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """The due times of a schedule that have passed and are not decided yet."""

    times: Sequence[datetime]
    """Oldest first, at least one."""
    more: bool = False
    """Whether so many follow that these lie before anything that could still fire."""
    now: datetime
    misfire: Misfire = Misfire.ONCE
    overlap: Overlap = Overlap.ALLOW
    busy_with: UUID | None = None
    """The unfinished job of the last fire."""


class Decision(msgspec.Struct, frozen=True):
    """What becomes of one due time; a job fires under `job_id`."""

    due_at: datetime
    outcome: RunOutcome
    reason: str | None = None
    job_id: UUID | None = None


def decide(due: Due) -> list[Decision]:
    """Decide about every due time, oldest first."""
    last = None if due.more else due.times[-1]
    met = last is not None and due.now - last <= ON_TIME
    firing = _firing(due, last, met=met)
    decisions: list[Decision] = []
    busy_with = due.busy_with
    for at in due.times:
        if at not in firing:
            decisions.append(Decision(at, RunOutcome.SKIPPED, _reason(due)))
        elif due.overlap is Overlap.SKIP and busy_with is not None:
            reason = f"overlap: the job {busy_with} of the last fire is not finished"
            decisions.append(Decision(at, RunOutcome.SKIPPED, reason))
        else:
            outcome = RunOutcome.FIRED if met and at == last else RunOutcome.CAUGHT_UP
            busy_with = new_id()
            decisions.append(Decision(at, outcome, job_id=busy_with))
    return decisions


def _firing(due: Due, last: datetime | None, *, met: bool) -> frozenset[datetime]:
    """Return the due times that fire unless an unfinished job forbids it."""
    if last is None:
        return frozenset()
    match due.misfire:
        case Misfire.SKIP:
            return frozenset({last} if met else ())
        case Misfire.ONCE:
            return frozenset({last})
        case Misfire.ALL:
            missed = due.times[:-1] if met else due.times
            return frozenset({*missed[-CATCH_UP_LIMIT:], last})


def _reason(due: Due) -> str:
    match due.misfire:
        case Misfire.SKIP:
            return "missed: no clock ran, and the misfire policy is skip"
        case Misfire.ONCE:
            return "missed: no clock ran, and the misfire policy is once: the last due time makes up for it"
        case Misfire.ALL:
            return f"missed: no clock ran, and no more than the last {CATCH_UP_LIMIT} missed due times are made up for"
