"""The state machine: every step is done by the real statements and by the model, and they must agree after it.

Owns the steps that a job's life is made of, and the comparison of every job on record with the model's. Entries of the
belt are kept for ever and claimed again at will, and so are attempts that were taken over: duplicates, stale deliveries
and zombies are steps like any other. Time passes by moving the times on record into the past.
"""

from __future__ import annotations

import asyncio
from typing import Final
from uuid import UUID

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.clock import new_id
from headrace.database.states import REDRIVABLE, JobState
from headrace.jobs.model import Claim, Outcome
from headrace.jobs.retry import Cancel, PermanentError, Retry, Snooze
from headrace.tasks.outcome import cancelled, failed, handed_back, returned, succeeded
from tests.model.job import SLOTS, UNDER_WAY, Limits, Model, ModelJob, RefusedError, Wish
from tests.model.real import Real
from tests.model.wishes import HOUR, HOURS, LIMITS, PICKS, QUEUE, QUEUES, WISHES, options_of

RETRY: Final = Retry(first_delay_seconds=HOUR, max_delay_seconds=4 * HOUR)
GRANTED: Final = 2
"""How many attempts a redrive grants."""


class JobsMachine(RuleBasedStateMachine):
    """Jobs, and everything that may happen to them."""

    def __init__(self, real: Real) -> None:
        super().__init__()
        self._real, self._model = real, Model()
        self._belt: list[Claim] = []
        self._won: list[Claim] = []
        self._real.start_anew()
        self._worker = self._real.register(SLOTS)

    @rule(wishes=st.lists(WISHES, min_size=1, max_size=4))
    def enqueue(self, wishes: list[Wish]) -> None:
        """A producer calls, and gets the id of the new job or of the one that holds its unique key."""
        for wish in wishes:
            asked = new_id()
            assert self._real.enqueue(options_of(wish), asked) == self._model.enqueue(asked, wish)

    @precondition(lambda self: self._unique())
    @rule(pick=PICKS, meanwhile=st.sampled_from(["nothing", "success", "expiry"]))
    def call_again(self, pick: int, meanwhile: str) -> None:
        """A producer repeats a call with a unique key, maybe after its job has succeeded or expired."""
        job = self._unique()[pick % len(self._unique())]
        if meanwhile == "success":
            self.finish()
        if meanwhile == "expiry":
            self.wait(1)
            self.expire()
        self.enqueue([job.wish])

    @rule()
    def finish(self) -> None:
        """A worker starts what it can, and all of it succeeds."""
        self.start()
        for won in self._current():
            self._settle(succeeded(won, "done"))

    @rule()
    def dispatch(self) -> None:
        """A relay looks until nothing is left to release; the belt is then read by somebody."""
        self._model.promote()
        may = {queue: self._model.releasable(queue) for queue in QUEUES}
        room = self._model.room()
        released = self._real.dispatch()
        went = {entry.job_id for entry in released}
        for order in may.values():
            assert set(order[: len(went.intersection(order))]) <= went, "a queue is released in its order"
        assert went <= {job_id for order in may.values() for job_id in order}, "what must wait, waits"
        assert len(went) == min(room, sum(map(len, may.values()))), "no room is left unused, and none is exceeded"
        self._model.release(went)
        for entry in released:
            job = self._model.jobs[entry.job_id]
            assert (entry.fence, entry.attempt, entry.max_attempts) == (job.fence, job.attempt + 1, job.max_attempts)
        self._belt += released

    @precondition(lambda self: self._belt)
    @rule(pick=PICKS)
    def claim(self, pick: int) -> None:
        """A worker claims by an entry, be it new, stale or a duplicate."""
        self._claim(self._belt[pick % len(self._belt)])

    @rule()
    def start(self) -> None:
        """A relay releases, and a worker claims what came, and the same again by a duplicate."""
        known = len(self._belt)
        self.dispatch()
        for entry in self._belt[known:] * 2:
            self._claim(entry)

    @precondition(lambda self: self._won)
    @rule(pick=PICKS)
    def succeed(self, pick: int) -> None:
        """An attempt succeeds; it may be a zombie's."""
        won = self._one_of_won(pick)
        self._settle(succeeded(won, pick))

    @precondition(lambda self: self._won)
    @rule(pick=PICKS, hours=HOURS)
    def fail(self, pick: int, hours: int) -> None:
        """An attempt raises what may be tried again."""
        won = self._one_of_won(pick)
        outcome = failed(won, ValueError("on purpose"), RETRY)
        if outcome.state is JobState.DEAD:
            assert won.attempt >= won.max_attempts
            self._settle(outcome, failed=True)
            return
        assert outcome.delay_seconds is not None
        assert 0 <= outcome.delay_seconds <= RETRY.bound_seconds(won.attempt)
        outcome = msgspec.structs.replace(outcome, delay_seconds=hours * HOUR)
        self._settle(outcome, failed=True, hours=hours)

    @precondition(lambda self: self._won)
    @rule(pick=PICKS)
    def fail_for_good(self, pick: int) -> None:
        """An attempt raises what no attempt can mend."""
        outcome = failed(self._one_of_won(pick), PermanentError("never"), RETRY)
        self._settle(outcome, failed=True)

    @precondition(lambda self: self._won)
    @rule(pick=PICKS, hours=HOURS)
    def snooze(self, pick: int, hours: int) -> None:
        """A task wishes to be run later."""
        outcome = returned(self._one_of_won(pick), Snooze(hours * HOUR))
        self._settle(outcome, hours=hours)

    @precondition(lambda self: self._won)
    @rule(pick=PICKS)
    def give_up(self, pick: int) -> None:
        """A task has nothing to do any more."""
        outcome = returned(self._one_of_won(pick), Cancel("no need"))
        self._settle(outcome, failed=True)

    @precondition(lambda self: self._won)
    @rule(pick=PICKS)
    def hand_back(self, pick: int) -> None:
        """A worker stops and gives back what it runs."""
        self._settle(handed_back(self._one_of_won(pick)))

    @precondition(lambda self: self._won)
    @rule(pick=PICKS)
    def be_interrupted(self, pick: int) -> None:
        """A worker ends a run that somebody wants cancelled."""
        won = self._one_of_won(pick)
        if self._model.jobs[won.job_id].cancel_requested:
            self._settle(cancelled(won, asyncio.CancelledError()), failed=True)

    @rule()
    def lose_worker(self) -> None:
        """A worker's lease runs out; two rescuers notice, and another worker starts."""
        self._real.lose_workers()
        self._model.lose(self._worker)
        self._worker = self._real.register(SLOTS)

    @rule(hours=HOURS)
    def wake_zombies(self, hours: int) -> None:
        """A worker is stopped, its jobs are started elsewhere, and then it wakes up with its outcomes."""
        self.start()
        zombies = self._current()
        self.lose_worker()
        if hours:
            self.wait(hours)
        self.start()
        for zombie in zombies:
            self._settle(succeeded(zombie, "late"))

    @rule(hours=st.integers(1, 2))
    def deliver_late(self, hours: int) -> None:
        """Redis loses the belt, and finds it again after the jobs were released anew."""
        known = len(self._belt)
        self.dispatch()
        late = self._belt[known:]
        self.wait(hours)
        self.lose_belt()
        self.dispatch()
        for entry in late:
            self._claim(entry)

    @precondition(lambda self: self._model.jobs)
    @rule(pick=PICKS)
    def cancel(self, pick: int) -> None:
        """An operator cancels a job."""
        job_id = self._one_of_jobs(pick, UNDER_WAY)
        try:
            expected = self._model.cancel(job_id)
        except RefusedError:
            expected = None
        assert self._real.cancel(job_id) == expected

    @precondition(lambda self: self._model.jobs)
    @rule(pick=PICKS)
    def redrive(self, pick: int) -> None:
        """An operator gives a job another chance."""
        job_id = self._one_of_jobs(pick, REDRIVABLE)
        try:
            self._model.redrive(job_id, GRANTED)
            expected = True
        except RefusedError:
            expected = False
        assert self._real.redrive(job_id, GRANTED) == expected

    @rule()
    def expire(self) -> None:
        """A relay gives up what has not started in time."""
        self._real.expire()
        self._model.expire()

    @rule()
    def lose_belt(self) -> None:
        """Redis has lost everything, and a relay notices."""
        self._real.return_lost()
        self._model.return_lost()

    @rule(hours=st.integers(1, 2))
    def wait(self, hours: int) -> None:
        """Time passes."""
        self._real.pass_time(hours)
        self._model.hour += hours

    @rule(queue=QUEUE, limits=LIMITS)
    def limit(self, queue: str, limits: Limits) -> None:
        """An operator sets or lifts the limits of a queue."""
        self._real.limit(queue, limits)
        self._model.limits[queue] = limits

    @invariant()
    def agree(self) -> None:
        """Every job on record is as the model has it."""
        expected = {
            (job.id, job.state.value, job.attempt, job.max_attempts, job.fence, job.lost, job.rows)
            for job in self._model.jobs.values()
        }
        assert self._real.stand() == expected

    def _claim(self, entry: Claim) -> None:
        expected = self._model.claim(entry.job_id, entry.fence, self._worker)
        assert self._real.claim(entry, self._worker) == expected
        if expected:
            self._won.append(entry)

    def _settle(self, outcome: Outcome, *, failed: bool = False, hours: int | None = None) -> None:
        assert self._real.settle(outcome) == self._model.settle(outcome, failed=failed, hours=hours)

    def _one_of_won(self, pick: int) -> Claim:
        """Return an attempt: two times in three one that is under way, else any one, which may be a zombie's."""
        current = self._current()
        among = current if current and pick % 3 else self._won
        return among[-1 - pick % len(among)]

    def _unique(self) -> list[ModelJob]:
        return [job for job in self._model.jobs.values() if job.wish.unique_key is not None]

    def _current(self) -> list[Claim]:
        return [won for won in self._won if self._model.is_current(won.job_id, won.fence)]

    def _one_of_jobs(self, pick: int, states: frozenset[JobState]) -> UUID:
        """Return a job: two times in three one in these states, else any one."""
        every = sorted(self._model.jobs)
        wanted = [job_id for job_id in every if self._model.jobs[job_id].state in states]
        among = wanted if wanted and pick % 3 else every
        return among[pick % len(among)]
