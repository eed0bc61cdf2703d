"""One attempt of a job, from its claim to the decision about it.

Owns what happens around a task's function: decode the arguments, run under the timeout, decide. A task that used its
session is settled in that session's transaction, so that effects and outcome commit together; any other outcome is
returned, to be recorded with those of its neighbours. Nothing that a task raises leaves here, be it SystemExit or a
cancellation of its own making; only a cancellation from outside that nobody announced passes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Any, cast

import msgspec
import structlog

from headrace.clock import now
from headrace.database.away import is_record_away
from headrace.database.record import Record
from headrace.database.states import JobState
from headrace.errors import FencedError
from headrace.jobs.model import Claim, Key, Outcome
from headrace.jobs.retry import Cancel, Retry, Snooze
from headrace.jobs.settle import settle_within
from headrace.providers import Providers
from headrace.tasks.attempt import SOON_SECONDS, Attempt, Interruption
from headrace.tasks.contract import Task
from headrace.tasks.outcome import (
    REJECTED,
    cancelled,
    failed,
    handed_back,
    name_of,
    rejected,
    returned,
    unknown_here,
    wished,
)
from headrace.tasks.places import Places
from headrace.tasks.policy import Policy, RunsIn
from headrace.tasks.reports import Reports
from headrace.tasks.returning import Returning
from headrace.tasks.run import Ground, Run
from headrace.telemetry import names
from headrace.telemetry.messages import Message
from headrace.telemetry.spans import run
from headrace.transaction import Transaction

logger = structlog.get_logger(__name__)

_RAISED = (Exception, asyncio.CancelledError, SystemExit, BaseExceptionGroup)
"""What a task may raise. A KeyboardInterrupt is the operator's, and passes."""


class _RefusedError(Exception):
    """What the task returned cannot be stored: its session must not commit."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome


class Execution:
    """Runs attempts; knows those that are under way.

    Args:
        tasks: what can be run, by name.
        record: where sessions are opened.
        providers: what `run.get` hands out.
        sessions: how many runs may have a session at once; the others wait for one.
        places: where plain functions run.

    """

    def __init__(
        self,
        tasks: Mapping[str, Task[Any, Any]],
        record: Record,
        providers: Providers,
        *,
        sessions: int = 8,
        places: Places | None = None,
    ) -> None:
        self._tasks = tasks
        self.reports = Reports(record)
        self._ground = Ground(record, providers, asyncio.Semaphore(sessions), self.reports)
        self._places = places or Places()
        self._attempts: dict[Key, Attempt] = {}
        self._arming: asyncio.TimerHandle | None = None
        self._returning = Returning()

    async def execute(self, claim: Claim) -> Outcome | None:
        """Run one attempt; return what is to be recorded, None where nothing is left to record."""
        attempt = Attempt(claim, cast("asyncio.Task[Any]", asyncio.current_task()))
        self._attempts[claim.key] = attempt
        if self._arming is None:
            self._arming = asyncio.get_running_loop().call_later(SOON_SECONDS / 4, self._arm)
        try:
            age = (now() - claim.created_at).total_seconds()
            message = Message(claim.job_id, claim.traceparent, age_seconds=age, attempt=claim.attempt)
            with run(claim.queue, message, task=claim.task) as scope:
                attempt.scope = scope
                outcome = await self._attempt(attempt)
                attempt.end()  # what it decided stands: an interruption comes too late
                if outcome is not None:
                    _tell(attempt, outcome)
            if self.reports.holds(claim.key):
                await self.reports.finish(claim.key)
            return outcome
        finally:
            del self._attempts[claim.key]
            attempt.end()

    def running(self) -> frozenset[Key]:
        """Return the attempts that are under way."""
        return frozenset(self._attempts)

    def attempt_of(self, task: asyncio.Task[Any]) -> Attempt | None:
        """Return the attempt that runs in an asyncio task, or the only one there is; may be asked by another thread."""
        under_way = list(self._attempts.values())
        found = next((attempt for attempt in under_way if attempt.runs_in(task)), None)
        return under_way[0] if found is None and len(under_way) == 1 else found

    def interrupt(self, attempts: Iterable[Key], reason: Interruption) -> None:
        """Cancel these attempts, as far as they are under way; each one once."""
        for key in attempts:
            if (attempt := self._attempts.get(key)) is not None:
                attempt.interrupt(reason)

    def _arm(self) -> None:
        """Give the timeouts of all attempts under way their timers, and look again as long as there are any."""
        for attempt in self._attempts.values():
            attempt.arm()
        loop = asyncio.get_running_loop()
        self._arming = loop.call_later(SOON_SECONDS / 4, self._arm) if self._attempts else None

    async def _attempt(self, attempt: Attempt) -> Outcome | None:
        claim = attempt.claim
        task = self._tasks.get(claim.task)
        if task is None:
            return unknown_here(claim, self._returning.delay_seconds(claim))
        try:
            args = task.decoder.decode(claim.args)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            return rejected(claim, error, f"the arguments do not fit the task {claim.task} of this code")
        policy = task.policy_for(args).with_overrides(claim.overrides)
        try:
            return await self._run(attempt, task, args, policy)
        except FencedError:
            logger.warning("attempt_fenced", job_id=str(claim.job_id), attempt=claim.attempt)
            return None
        except _RAISED as error:  # failure table: whatever a task raises is an outcome on record
            if attempt.interruption is not None:
                return _interrupted(claim, error, attempt.interruption)
            outcome = _raised(claim, error, policy.retry, timed_out=attempt.overdue)
            with suppress(Exception):  # an error whose own text cannot be made
                if attempt.scope is not None and not isinstance(error, (Snooze, Cancel)):
                    attempt.scope.failed(error)
            return outcome

    async def _run(
        self, attempt: Attempt, task: Task[Any, Any], args: msgspec.Struct, policy: Policy
    ) -> Outcome | None:
        try:
            async with AsyncExitStack() as stack:
                context = Run(attempt, self._ground, stack)
                if policy.runs_in is RunsIn.LOOP:
                    async with attempt.bound(policy.timeout_seconds):
                        value = await task.function(context, **msgspec.structs.asdict(args))
                    outcome = returned(attempt.claim, value, stored=policy.result)
                else:
                    outcome = await self._places.run(attempt, context, task, args, policy)
                if context.session is None:
                    return outcome
                await self.reports.finish(attempt.claim.key)  # before the job's row is locked
                await _settle(context.session, outcome)
                _tell(attempt, outcome)
                return None
        except _RefusedError as refused:
            return refused.outcome


async def _settle(session: Transaction, outcome: Outcome) -> None:
    """Settle within the session. Where this raises, it rolls back, whichever way its statements went."""
    if outcome.state is JobState.DEAD:
        raise _RefusedError(outcome)
    await settle_within(session, outcome)


def _tell(attempt: Attempt, outcome: Outcome) -> None:
    """Tell the attempt's span what became of it."""
    scope = attempt.scope
    if scope is None or not scope.recording:
        return
    scope.set(names.OUTCOME, name_of(outcome))
    if outcome.failure is not None and outcome.failure.outcome == REJECTED:  # the task itself has raised nothing
        scope.failed_as(outcome.failure.type, outcome.failure.message)


def _interrupted(claim: Claim, error: BaseException, reason: Interruption) -> Outcome:
    """Decide for an attempt that was cancelled from outside, whatever its task made of the cancellation."""
    match reason:
        case Interruption.REQUESTED:
            return cancelled(claim, error)
        case Interruption.SHUTDOWN | Interruption.LOST:  # of a lost one the fence refuses it, as it should
            return handed_back(claim)


def _raised(claim: Claim, error: BaseException, retry: Retry, *, timed_out: bool) -> Outcome:
    me = asyncio.current_task()
    if isinstance(error, (Snooze, Cancel)):
        return wished(claim, error)
    if isinstance(error, asyncio.CancelledError):
        if me is not None and me.cancelling():
            raise error  # somebody cancels the worker itself
        within = RuntimeError("the task was cancelled from within")
        within.__cause__ = error
        return failed(claim, within, retry)
    return failed(claim, error, retry, timed_out=timed_out, not_its_fault=is_record_away(error))
