"""When a waiting job may start: its place in line and an estimate with its range.

Owns the arithmetic, from a `Line` to a `Forecast`; it reads nothing and remembers nothing. What must end first is
divided by the pace at which the queue was lately worked off, as the leader writes it. The range is wide where little is
known: the fewer jobs must end, the more chance decides. Where it cannot be known, the reason is told instead.
Never promise: jobs of a higher priority may come, and workers may go.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import msgspec

_AT_ONCE_SECONDS: Final = 0.05
_SLACK_SECONDS: Final = 1.0
"""A release, a claim and a busy machine: what comes on top of every estimate's high end."""
_PACE_ERROR: Final = 0.4
"""The pace is a mean of twenty seconds at most, and the jobs to come may be longer or shorter."""
_CHANCE: Final = 1.5


class Seconds(msgspec.Struct, frozen=True):
    """A range of seconds from now."""

    low: float
    likely: float
    high: float


class Forecast(msgspec.Struct, frozen=True):
    """When a job may start, as far as can be said."""

    position: int | None
    """Its place in line, 1 for the next; null while it is not due, or further back than is counted."""
    start_in_seconds: Seconds | None
    """null where it cannot be known; `basis` says why."""
    basis: str
    """What the estimate is made of."""


class Rated(msgspec.Struct, frozen=True):
    """A queue's rate: at most `limit` starts within `per_seconds`, the next one in `opens_in_seconds`."""

    limit: int
    per_seconds: float
    opens_in_seconds: float


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What a job waits for at one moment."""

    position: int | None
    ahead: int
    """Jobs of the queue that are released before it."""
    in_flight: int
    """Jobs of the queue on the belt or running, those before it."""
    slots: int
    """How many of them may run at once: the slots of the live workers, or the queue's limit if that is less."""
    pace: float | None
    """Jobs that lately left the workers per second."""
    due_in_seconds: float = 0.0
    rated: Rated | None = None
    ahead_of_key: int = 0
    """Jobs with its concurrency key that must end first."""
    unknowable: str | None = None
    """Why nothing can be said, where that is so."""


def forecast(line: Line) -> Forecast:
    """Estimate when a job starts."""
    if line.unknowable is not None:
        return Forecast(line.position, None, line.unknowable)
    estimates = [_by_workers(line), _by_rate(line), _by_key(line)]
    basis = "; ".join(text for _, text in estimates if text)
    if any(estimate is None for estimate, _ in estimates):
        return Forecast(line.position, None, basis)
    start = _latest(estimate for estimate, _ in estimates if estimate is not None)
    if line.due_in_seconds > 0:
        due = line.due_in_seconds
        start = _latest((start, Seconds(due, due + _AT_ONCE_SECONDS, due + _SLACK_SECONDS)))
        basis = f"it is due in {due:.1f} s; {basis}"
    return Forecast(line.position, _rounded(start), basis)


def _by_workers(line: Line) -> tuple[Seconds | None, str]:
    must_end = line.ahead + line.in_flight + 1 - line.slots
    if must_end <= 0:
        return Seconds(0.0, _AT_ONCE_SECONDS, _SLACK_SECONDS), "a worker has room for it"
    if not line.pace:
        return None, "its pace is not known: no job of the queue has ended yet while others waited"
    noun = "job" if must_end == 1 else "jobs"
    return _around(
        must_end, must_end / line.pace, _PACE_ERROR
    ), f"{must_end} {noun} must end first, {line.pace:.3g} do per second"


def _by_rate(line: Line) -> tuple[Seconds | None, str]:
    rated = line.rated
    if rated is None:
        return Seconds(0.0, 0.0, 0.0), ""
    windows = line.ahead // rated.limit
    low = rated.opens_in_seconds + max(0, windows - 1) * rated.per_seconds
    likely = rated.opens_in_seconds + windows * rated.per_seconds
    high = likely + (rated.per_seconds if line.ahead else 0.0) + _SLACK_SECONDS
    return Seconds(low, likely, high), f"at most {rated.limit} start within {rated.per_seconds:g} s"


def _by_key(line: Line) -> tuple[Seconds | None, str]:
    must_end = line.ahead_of_key
    if must_end <= 0:
        return Seconds(0.0, 0.0, 0.0), ""
    noun = "job" if must_end == 1 else "jobs"
    return None, f"{must_end} {noun} with its concurrency key must end first, and how long they run is not known"


def _around(count: int, likely: float, error: float) -> Seconds:
    spread = 1 + error + _CHANCE / math.sqrt(count)
    return Seconds(likely / spread, likely, likely * spread + _SLACK_SECONDS)


def _latest(estimates: Iterable[Seconds]) -> Seconds:
    """Return the range of the latest of several things that must all have happened."""
    found = list(estimates)
    return Seconds(*(max(getattr(one, field) for one in found) for field in Seconds.__struct_fields__))


def _rounded(start: Seconds) -> Seconds:
    return Seconds(round(start.low, 2), round(start.likely, 2), round(start.high, 2))
