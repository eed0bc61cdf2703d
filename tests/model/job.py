"""A model of the job side, small enough to be believed at sight.

Owns what a job should do, in plain Python and without a database: states, attempts, fences, losses, keys, limits and
time. The state machine drives the real statements and this model side by side, and they must agree after every step.
Time here is a number of hours that moves only when the test says so.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

from headrace.database.states import FINISHED, REDRIVABLE, UNSTARTED, JobState
from headrace.jobs.model import Outcome

MAX_LOSSES: Final = 3
SLOTS: Final = 4
"""How many jobs the worker takes at once."""
UNDER_WAY: Final = frozenset({JobState.QUEUED, JobState.RUNNING})


class RefusedError(Exception):
    """The model refuses: the real statement must, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a call says; times are in hours from now."""

    queue: str
    priority: int = 5
    delay: int = 0
    expires: int | None = None
    unique_key: str | None = None
    unique_for: int | None = None
    """For how many hours the key is held, whatever becomes of the job."""
    concurrency_key: str | None = None
    max_attempts: int = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelJob:
    """A job as it should be."""

    id: UUID
    wish: Wish
    max_attempts: int
    run_at: int
    expires_at: int | None
    place: int
    """Rises with every time that is given to a job: the older of two with one `run_at` and priority goes first."""
    state: JobState = JobState.PENDING
    attempt: int = 0
    fence: int = 0
    lost: int = 0
    rows: int = 0
    """Attempts on record."""
    worker: UUID | None = None
    released_at: int = 0
    cancel_requested: bool = False


@dataclass(slots=True)
class Limits:
    """What an operator has set for a queue."""

    paused: bool = False
    concurrency: int | None = None
    rate: int | None = None
    """How many jobs may start within an hour."""


@dataclass(slots=True)
class Model:
    """All jobs, and the hour."""

    hour: int = 0
    jobs: dict[UUID, ModelJob] = field(default_factory=dict)
    limits: defaultdict[str, Limits] = field(default_factory=lambda: defaultdict(Limits))
    keys: dict[str, tuple[UUID, int]] = field(default_factory=dict)
    """The unique keys that are held for a time: by which job, and until which hour."""
    starts: Counter[tuple[str, int]] = field(default_factory=Counter)
    """How many jobs of a queue with a rate were started in an hour."""
    _places: int = 0

    def enqueue(self, job_id: UUID, wish: Wish) -> UUID:
        """Add a job; return its id, or that of the one which holds its unique key."""
        if wish.unique_key is None:
            return self._add(job_id, wish)
        if wish.unique_for is not None and (answering := self._answering(wish.unique_key)) is not None:
            return answering
        holder = self.holder(wish.unique_key)
        stands = self._add(job_id, wish) if holder is None else holder.id
        if wish.unique_for is not None:
            self.keys[wish.unique_key] = stands, self.hour + wish.unique_for
        return stands

    def _add(self, job_id: UUID, wish: Wish) -> UUID:
        self.jobs[job_id] = ModelJob(
            id=job_id,
            wish=wish,
            max_attempts=wish.max_attempts,
            run_at=self.hour + wish.delay,
            expires_at=None if wish.expires is None else self.hour + wish.expires,
            place=self.next_place(),
            state=JobState.SCHEDULED if wish.delay else JobState.PENDING,
        )
        return job_id

    def holder(self, unique_key: str) -> ModelJob | None:
        """Return the unfinished job with a unique key."""
        return next(
            (job for job in self.jobs.values() if job.wish.unique_key == unique_key and job.state not in FINISHED), None
        )

    def _answering(self, unique_key: str) -> UUID | None:
        """Return the job that answers for a key which is held for a time; one that stopped answers for nothing."""
        job_id, until = self.keys.get(unique_key, (None, 0))
        if job_id is None or until <= self.hour or self.jobs[job_id].state in REDRIVABLE:
            return None
        return job_id

    def promote(self) -> None:
        """Make what is due pending."""
        for job in self.jobs.values():
            if job.state in {JobState.SCHEDULED, JobState.RETRYING} and job.run_at <= self.hour:
                self.change(job, state=JobState.PENDING)

    def room(self) -> int:
        """Return how many jobs the worker can take more, of whatever queue."""
        return max(0, SLOTS - sum(job.state in UNDER_WAY for job in self.jobs.values()))

    def releasable(self, queue: str) -> list[UUID]:
        """Return what may be released of a queue, in its order, had the worker endless room."""
        if self.limits[queue].paused:
            return []
        under_way = self.in_flight(queue)
        busy = {job.wish.concurrency_key for job in under_way} - {None}
        chosen: list[UUID] = []
        for job in sorted(self.jobs.values(), key=lambda one: (-one.wish.priority, one.run_at, one.place)):
            key = job.wish.concurrency_key
            if job.wish.queue == queue and job.state is JobState.PENDING and key not in busy:
                chosen.append(job.id)
                busy |= {key} - {None}
        return chosen[: self._allowed(queue, under_way)]

    def _allowed(self, queue: str, under_way: Sequence[ModelJob]) -> int:
        """Return how many more jobs the limits of a queue allow."""
        limits, on_belt = self.limits[queue], sum(job.state is JobState.QUEUED for job in under_way)
        by_concurrency = len(self.jobs) if limits.concurrency is None else limits.concurrency - len(under_way)
        by_rate = len(self.jobs) if limits.rate is None else limits.rate - self.starts[queue, self.hour] - on_belt
        return max(0, min(by_concurrency, by_rate))

    def release(self, job_ids: Iterable[UUID]) -> None:
        """Release these jobs."""
        for job_id in job_ids:
            job = self.jobs[job_id]
            self.change(job, state=JobState.QUEUED, fence=job.fence + 1, released_at=self.hour)

    def in_flight(self, queue: str) -> list[ModelJob]:
        """Return the jobs of a queue that are on the belt or running."""
        return [job for job in self.jobs.values() if job.wish.queue == queue and job.state in UNDER_WAY]

    def claim(self, job_id: UUID, fence: int, worker: UUID) -> bool:
        """Claim by an entry of the belt; tell whether it was won."""
        job = self.jobs[job_id]
        expired = job.expires_at is not None and job.expires_at <= self.hour
        if job.state is not JobState.QUEUED or job.fence != fence or expired:
            return False
        if self.limits[job.wish.queue].rate is not None:
            self.starts[job.wish.queue, self.hour] += 1
        self.change(job, state=JobState.RUNNING, attempt=job.attempt + 1, worker=worker)
        return True

    def lose(self, worker: UUID) -> None:
        """The worker has died: its jobs are tried again, as long as attempts are left and it is not the third time.

        Those of which it is the second time begin an hour apart.
        """
        suspects = 0
        for job in sorted(self.jobs.values(), key=lambda one: one.id):
            if job.state is JobState.RUNNING and job.worker == worker:
                lost = job.lost + 1
                is_over = lost >= MAX_LOSSES or job.attempt >= job.max_attempts
                state = JobState.DEAD if is_over else JobState.PENDING
                state = JobState.CANCELLED if job.cancel_requested else state
                self.change(job, state=state, lost=lost, rows=job.rows + 1)
                if state is JobState.PENDING and lost > 1:
                    if suspects:
                        self.change(
                            self.jobs[job.id],
                            state=JobState.RETRYING,
                            run_at=self.hour + suspects,
                            place=self.next_place(),
                        )
                    suspects += 1

    def cancel(self, job_id: UUID) -> JobState:
        """Cancel; return the state."""
        job = self.jobs[job_id]
        if job.state in FINISHED:
            raise RefusedError
        state = JobState.CANCELLED if job.state in UNSTARTED else job.state
        self.change(job, state=state, cancel_requested=True)
        return state

    def redrive(self, job_id: UUID, attempts: int) -> None:
        """Give a stopped job another chance."""
        job = self.jobs[job_id]
        if job.state not in REDRIVABLE:
            raise RefusedError
        if job.wish.unique_key is not None:
            self._take_over(job.wish.unique_key, job)
        is_over = job.expires_at is not None and job.expires_at <= self.hour
        self.change(
            job,
            state=JobState.PENDING,
            run_at=self.hour,
            place=self.next_place(),
            lost=0,
            expires_at=None if is_over else job.expires_at,
            max_attempts=max(job.max_attempts, job.attempt + min(job.max_attempts, attempts)),
            cancel_requested=False,
        )

    def _take_over(self, unique_key: str, job: ModelJob) -> None:
        if self.holder(unique_key) is not None or self._answering(unique_key) is not None:
            raise RefusedError
        held, until = self.keys.get(unique_key, (None, 0))
        if held is not None and until > self.hour:
            self.keys[unique_key] = job.id, until

    def expire(self) -> None:
        """Give up what has not started in time."""
        for job in self.jobs.values():
            if job.state in UNSTARTED and job.expires_at is not None and job.expires_at <= self.hour:
                self.change(job, state=JobState.EXPIRED)

    def return_lost(self) -> None:
        """The belt is empty: what was released before this hour is pending again."""
        for job in self.jobs.values():
            if job.state is JobState.QUEUED and job.released_at < self.hour:
                self.change(job, state=JobState.PENDING)

    def is_current(self, job_id: UUID, fence: int) -> bool:
        """Tell whether an attempt is under way, and an outcome of it counts."""
        job = self.jobs[job_id]
        return job.state is JobState.RUNNING and job.fence == fence

    def settle(self, outcome: Outcome, *, failed: bool, hours: int | None) -> bool:
        """Settle an attempt, which left a row where it `failed`; tell whether it counted."""
        job = self.jobs[outcome.job_id]
        if not self.is_current(job.id, outcome.fence):
            return False
        is_tried_again = outcome.state in UNSTARTED
        self.change(
            job,
            state=JobState.CANCELLED if is_tried_again and job.cancel_requested else outcome.state,
            attempt=job.attempt - outcome.refund,
            rows=job.rows + failed,
            lost=0 if outcome.state is JobState.SCHEDULED else job.lost,
            run_at=job.run_at if hours is None else self.hour + hours,
            place=job.place if hours is None else self.next_place(),
        )
        return True

    def change(self, job: ModelJob, **changes: object) -> None:
        """Change a job."""
        self.jobs[job.id] = replace(job, **changes)  # type: ignore[arg-type]  # the fields are checked by the dataclass

    def next_place(self) -> int:
        """Return the place of a time that is given now."""
        self._places += 1
        return self._places
