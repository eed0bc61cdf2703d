"""The history checker: what was promised and what was done, held against what the record says.

Producers write down what was acknowledged to them, tasks what they began and did, and the record is read at the end.
`check` compares the four and names every difference, job by job: nothing is sampled and nothing is repaired. It is
pure, so that its own tests can show it a history with a fault. Repeated effects outside PostgreSQL are counted and are
no fault: they carry an idempotency key, and at least once is what was promised for them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from uuid import UUID

import msgspec

from headrace.database.states import FINISHED, JobState


class Accepted(msgspec.Struct, frozen=True):
    """What a producer was told: this job will happen."""

    job_id: UUID
    ends: frozenset[JobState]
    """How the job may end. A job under which workers died may be dead besides."""
    effect: str | None = None
    """The key of the row that its success writes through the session."""


class Began(msgspec.Struct, frozen=True):
    """What a task wrote down first: this run of it began."""

    job_id: UUID
    attempt: int
    fence: int


class Attempt(msgspec.Struct, frozen=True):
    """A row of `job_attempts`."""

    attempt: int
    fence: int
    outcome: str
    reason: str = ""
    """Type and message of the error, for the words of a fault."""


class Recorded(msgspec.Struct, frozen=True):
    """A job as the record has it at the end."""

    job_id: UUID
    state: JobState
    attempt: int
    fence: int
    starts: int
    """How often it was claimed: its moves to `running`."""
    attempts: tuple[Attempt, ...] = ()

    @property
    def unexplained(self) -> int:
        """How many starts ended neither in success nor in an attempt on record: they were handed back."""
        return self.starts - len(self.attempts) - (self.state in {JobState.SUCCEEDED, JobState.RUNNING})


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was written down."""

    accepted: Sequence[Accepted]
    began: Sequence[Began]
    outside: Sequence[str]
    """The idempotency key of each effect outside PostgreSQL."""
    effects: Sequence[str]
    """The key of each row that was written through a session."""
    jobs: Mapping[UUID, Recorded]


class Wrong(StrEnum):
    """What may be wrong with a history."""

    LOST = "lost"
    """Accepted, and not on record, not finished, or succeeded without its effect."""
    TWICE = "twice"
    """An effect through the session that is there more than once."""
    STRAY = "stray"
    """An effect through the session of a job that did not succeed, or that nobody accepted."""
    UNRECORDED = "unrecorded"
    """A run that a task began and of which the record knows nothing, or a gap in the numbers of attempts."""
    INVENTED = "invented"
    """More attempts on record than the job was started."""
    ENDED_OTHERWISE = "ended otherwise"
    """Finished in a state that nothing explains."""


class Fault(msgspec.Struct, frozen=True):
    """One difference."""

    wrong: Wrong
    about: str
    """The job's id, or the effect's key."""
    said: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of a history and its faults."""

    accepted: int
    states: Mapping[JobState, int]
    quarantined: int
    """Dead jobs of which the last attempt was lost with its worker."""
    innocent: int
    """Those of them that should have succeeded: workers died under them by no fault of theirs."""
    attempts: int
    lost_attempts: int
    handed_back: int
    duplicates_outside: int
    faults: tuple[Fault, ...]

    def count(self, wrong: Wrong) -> int:
        """Return how many faults are of a kind."""
        return sum(fault.wrong is wrong for fault in self.faults)


def check(history: History) -> Verdict:
    """Hold a history against the record."""
    promised = {one.job_id: one for one in history.accepted}
    jobs = [history.jobs[job_id] for job_id in promised if job_id in history.jobs]
    attempts = [attempt for job in jobs for attempt in job.attempts]
    succeeded = sum(job.state is JobState.SUCCEEDED for job in jobs)
    return Verdict(
        accepted=len(promised),
        states=Counter(job.state for job in jobs),
        quarantined=sum(_is_quarantined(job) for job in jobs),
        innocent=sum(_is_quarantined(job) and JobState.DEAD not in promised[job.job_id].ends for job in jobs),
        attempts=succeeded + len(attempts),
        lost_attempts=sum(attempt.outcome == "lost" for attempt in attempts),
        handed_back=sum(job.unexplained for job in jobs),
        duplicates_outside=len(history.outside) - len(set(history.outside)),
        faults=(
            *_lost(promised.values(), history),
            *_wrong_effects(promised.values(), history),
            *_ended_otherwise(promised.values(), history),
            *_wrong_attempts(history),
        ),
    )


def _lost(promised: Iterable[Accepted], history: History) -> Iterator[Fault]:
    written = set(history.effects)
    for one in promised:
        job = history.jobs.get(one.job_id)
        if job is None:
            yield Fault(Wrong.LOST, str(one.job_id), "was accepted and is not on record")
        elif job.state not in FINISHED:
            yield Fault(Wrong.LOST, str(one.job_id), f"was accepted and is {job.state}")
        elif job.state is JobState.SUCCEEDED and one.effect is not None and one.effect not in written:
            yield Fault(Wrong.LOST, str(one.job_id), f"succeeded, and its effect {one.effect} is missing")


def _wrong_effects(promised: Iterable[Accepted], history: History) -> Iterator[Fault]:
    makers = {one.effect: one for one in promised if one.effect is not None}
    for key, times in Counter(history.effects).items():
        maker = makers.get(key)
        job = history.jobs.get(maker.job_id) if maker else None
        if times > 1:
            yield Fault(Wrong.TWICE, key, f"was written {times} times")
        if job is None:
            yield Fault(Wrong.STRAY, key, "was written for no accepted job")
        elif job.state is not JobState.SUCCEEDED:
            yield Fault(Wrong.STRAY, key, f"was written, and the job {job.job_id} is {job.state}")


def _ended_otherwise(promised: Iterable[Accepted], history: History) -> Iterator[Fault]:
    for one in promised:
        job = history.jobs.get(one.job_id)
        if job is None or job.state not in FINISHED or job.state in one.ends or _is_quarantined(job):
            continue
        said = f"{last.outcome}, {last.reason}" if (last := _last(job)) else "none"
        yield Fault(Wrong.ENDED_OTHERWISE, str(one.job_id), f"is {job.state}; the last attempt on record: {said}")


def _wrong_attempts(history: History) -> Iterator[Fault]:
    began: dict[UUID, set[Began]] = defaultdict(set)
    for one in history.began:
        began[one.job_id].add(one)
    for job in history.jobs.values():
        yield from _wrong_numbers(job)
        yield from _wrong_starts(job, began.get(job.job_id, set()))


def _wrong_numbers(job: Recorded) -> Iterator[Fault]:
    """Attempts are numbered from 1 without a gap; one that was refunded leaves its number to the next."""
    numbers = {attempt.attempt for attempt in job.attempts}
    if job.state is JobState.SUCCEEDED:
        numbers.add(job.attempt)
    missing = set(range(1, max({job.attempt, *numbers}) + 1)) - numbers
    if missing and job.state in FINISHED:
        yield Fault(Wrong.UNRECORDED, str(job.job_id), f"has no attempt {', '.join(map(str, sorted(missing)))}")


def _wrong_starts(job: Recorded, began: set[Began]) -> Iterator[Fault]:
    recorded = {attempt.fence for attempt in job.attempts}
    if job.state is JobState.SUCCEEDED:
        recorded.add(job.fence)
    unknown = sorted(one.fence for one in began if one.fence not in recorded)
    if job.unexplained < 0:
        yield Fault(Wrong.INVENTED, str(job.job_id), f"has {-job.unexplained} attempts more than it was started")
    if len(unknown) > max(job.unexplained, 0):
        yield Fault(Wrong.UNRECORDED, str(job.job_id), f"ran with fence {unknown}, of which the record knows nothing")


def _is_quarantined(job: Recorded) -> bool:
    last = _last(job)
    return job.state is JobState.DEAD and last is not None and last.outcome == "lost"


def _last(job: Recorded) -> Attempt | None:
    return max(job.attempts, key=lambda attempt: attempt.fence, default=None)
