"""The mix: which jobs are enqueued, when, and on which road; all of it drawn from the seed before anything starts.

Owns the kinds of jobs and their shares, and for each what its end may be. Most are quick; some are slow enough to be
under way when their worker dies. Two runs with one seed ask for the same jobs at the same times; what becomes of each
is the deployment's doing.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from headrace.database.states import JobState
from headrace.jobs.call import Call, Options
from tests.chaos import tasks

KEYS: Final = 50
_UNIQUE_KEYS: Final = 20
_JOBS_PER_POISON: Final = 2500
STEPS: Final[dict[str, tuple[str, ...]]] = {
    "first": (),
    "left": ("first",),
    "right": ("first",),
    "last": ("left", "right"),
}
"""The shape of a workflow: which job waits for which."""
_SUCCEEDS: Final = frozenset({JobState.SUCCEEDED})


class Road(StrEnum):
    """How a job comes on record."""

    REQUEST = "request"
    BATCH = "batch"
    TRANSACTION = "transaction"
    WORKFLOW = "workflow"


_ROADS: Final = {Road.REQUEST: 15, Road.BATCH: 35, Road.TRANSACTION: 50}


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A job that somebody will ask for."""

    at_seconds: float
    road: Road
    call: Call
    ends: frozenset[JobState] = _SUCCEEDS
    effect: str | None = None
    cancel_after_seconds: float | None = None
    """When an operator cancels it, counted from its acceptance."""
    steps: tuple[Wanted, ...] = ()
    """The further jobs of a workflow that begins with this one, as `STEPS` names them."""


class Draw:
    """What the makers of jobs draw from."""

    def __init__(self, seed: int, ledger: str, longest_seconds: float, begin: datetime) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - jobs that can be asked for again
        self.ledger, self.longest_seconds, self._begin = ledger, longest_seconds, begin
        self.number = 0
        self.at_seconds = 0.0

    def options(self) -> Options:
        """Return options with a priority of three jobs in ten."""
        return Options(priority=self.dice.randint(0, 9) if self.dice.random() < 0.3 else None)

    def slow(self) -> float:
        """Return the seconds of a slow job."""
        return self.dice.uniform(self.longest_seconds / 6, self.longest_seconds)

    def expiry(self) -> datetime:
        """Return a time shortly after the job is asked for."""
        return self._begin + timedelta(seconds=self.at_seconds + self.dice.uniform(0.0, self.longest_seconds))

    def wanted(self, call: Call, ends: frozenset[JobState] = _SUCCEEDS, effect: str | None = None) -> Wanted:
        """Return a job that is asked for on any road."""
        (road,) = self.dice.choices(list(_ROADS), weights=list(_ROADS.values()))
        return Wanted(at_seconds=self.at_seconds, road=road, call=call, ends=ends, effect=effect)


def _quick(draw: Draw) -> Wanted:
    return draw.wanted(tasks.work.options(draw.options()).call(draw.ledger, 0.0))


def _slow(draw: Draw) -> Wanted:
    return draw.wanted(tasks.work.options(draw.options()).call(draw.ledger, draw.slow()))


def _flaky(draw: Draw) -> Wanted:
    return draw.wanted(tasks.work.call(draw.ledger, 0.02, fail_first=draw.dice.randint(1, 3)))


def _writing(draw: Draw) -> Wanted:
    key, seconds = f"write-{draw.number}", draw.dice.uniform(0.0, 0.3)
    call = tasks.write.options(draw.options()).call(draw.ledger, key, seconds, fail_first=draw.dice.randint(0, 1))
    return draw.wanted(call, effect=key)


def _following(draw: Draw) -> Wanted:
    key = f"follow-{draw.number}"
    return draw.wanted(tasks.follow.call(draw.ledger, key, draw.dice.uniform(0.0, 0.2)), effect=key)


def _failing(draw: Draw) -> Wanted:
    return draw.wanted(tasks.fail.call(draw.ledger, f"fail-{draw.number}"), frozenset({JobState.DEAD}))


def _delayed(draw: Draw) -> Wanted:
    options = Options(delay_seconds=draw.slow())
    return draw.wanted(tasks.work.options(options).call(draw.ledger, 0.0))


def _keyed(draw: Draw) -> Wanted:
    options = Options(concurrency_key=f"key-{draw.dice.randrange(KEYS)}")
    return draw.wanted(tasks.work.options(options).call(draw.ledger, draw.dice.uniform(0.02, 0.1)))


def _unique(draw: Draw) -> Wanted:
    options = Options(unique_key=f"one-{draw.dice.randrange(_UNIQUE_KEYS)}")
    wanted = draw.wanted(tasks.work.options(options).call(draw.ledger, draw.dice.uniform(0.1, 0.5)))
    return msgspec.structs.replace(wanted, road=Road.REQUEST)  # a repeat gets the first answer, and so the same job


def _expiring(draw: Draw) -> Wanted:
    call = tasks.work.options(Options(expires_at=draw.expiry(), priority=0)).call(draw.ledger, 0.0)
    return draw.wanted(call, _SUCCEEDS | {JobState.EXPIRED})


def _unwanted(draw: Draw) -> Wanted:
    wanted = draw.wanted(tasks.work.call(draw.ledger, draw.slow()), _SUCCEEDS | {JobState.CANCELLED})
    return msgspec.structs.replace(wanted, cancel_after_seconds=draw.dice.uniform(0.0, draw.longest_seconds))


def _poisonous(draw: Draw) -> Wanted:
    return draw.wanted(tasks.poison.call(draw.ledger), frozenset({JobState.DEAD}))


def _snoozing(draw: Draw) -> Wanted:
    key = f"snooze-{draw.number}"
    return draw.wanted(tasks.snooze.call(draw.ledger, key, draw.dice.uniform(0.0, 1.0)), effect=key)


def _giving_up(draw: Draw) -> Wanted:
    return draw.wanted(tasks.give_up.call(draw.ledger), frozenset({JobState.CANCELLED}))


def _threaded(draw: Draw) -> Wanted:
    return draw.wanted(tasks.in_thread.call(draw.ledger, draw.dice.uniform(0.0, 0.5)))


def _in_process(draw: Draw) -> Wanted:
    return draw.wanted(tasks.in_process.call(draw.ledger, draw.dice.uniform(0.0, 0.5)))


def _workflow(draw: Draw) -> Wanted:
    """A diamond: one job, two that wait for it, and one that waits for both."""
    keys = [f"step-{draw.number}-{name}" for name in STEPS]
    first, *others = [
        draw.wanted(tasks.write.call(draw.ledger, key, draw.dice.uniform(0.0, 0.2)), effect=key) for key in keys
    ]
    return msgspec.structs.replace(first, road=Road.WORKFLOW, steps=tuple(others))


_KINDS: Final[dict[Callable[[Draw], Wanted], int]] = {
    _quick: 30, _slow: 15, _flaky: 8, _writing: 14, _following: 5, _failing: 4, _delayed: 6, _keyed: 10, _unique: 4,
    _expiring: 2, _unwanted: 2, _snoozing: 2, _giving_up: 1, _threaded: 2, _in_process: 1, _workflow: 2,
}  # fmt: skip


def mix(draw: Draw, *, jobs: int, seconds: float) -> list[Wanted]:
    """Draw jobs over a time, in the order of their times."""
    times = sorted(draw.dice.uniform(0.0, seconds) for _ in range(jobs))
    poisonous = set(draw.dice.sample(range(jobs), -(-jobs // _JOBS_PER_POISON)))
    wanted = []
    for draw.number, draw.at_seconds in enumerate(times):
        (make,) = draw.dice.choices(list(_KINDS), weights=list(_KINDS.values()))
        wanted.append((_poisonous if draw.number in poisonous else make)(draw))
    return wanted
