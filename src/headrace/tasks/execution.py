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
from enum import Enum, auto
from typing import Any

import msgspec
import structlog

from headrace.clock import now
from headrace.database.away import is_record_away
from headrace.database.record import Record
from headrace.database.states import JobState
from headrace.errors import FencedError
from headrace.jobs.model import Claim, Key, Outcome
from headrace.jobs.retry import Retry
from headrace.jobs.settle import settle_within
from headrace.providers import Providers
from headrace.tasks.contract import Task
from headrace.tasks.outcome import cancelled, failed, handed_back, rejected, succeeded, unknown_here
from headrace.tasks.run import Run
from headrace.telemetry.messages import Message
from headrace.telemetry.scope import Scope
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


class Interruption(Enum):
    """Why a running attempt is cancelled from outside."""

    REQUESTED = auto()
    """Somebody cancelled the job."""
    SHUTDOWN = auto()
    """The worker stops and its patience is over."""
    LOST = auto()
    """The worker's lease was lost: the job runs elsewhere by now."""


class Execution:
    """Runs attempts; knows those that are under way.

    Args:
        tasks: what can be run, by name.
        record: where sessions are opened.
        providers: what `run.get` hands out.
        sessions: how many runs may have a session at once; the others wait for one.

    """

    def __init__(
        self, tasks: Mapping[str, Task[Any, Any]], record: Record, providers: Providers, *, sessions: int = 8
    ) -> None:
        self._tasks = tasks
        self._record = record
        self._providers = providers
        self._seats = asyncio.Semaphore(sessions)
        self._running: dict[Key, asyncio.Task[Any]] = {}
        self._interrupted: dict[Key, Interruption] = {}

    async def execute(self, claim: Claim) -> Outcome | None:
        """Run one attempt; return what is to be recorded, None where nothing is left to record."""
        me = asyncio.current_task()
        if me is not None:
            self._running[claim.key] = me
        try:
            age = (now() - claim.created_at).total_seconds()
            message = Message(claim.job_id, claim.traceparent, age_seconds=age, attempt=claim.attempt)
            with run(claim.queue, message, task=claim.task) as scope:
                return await self._attempt(claim, scope)
        finally:
            self._running.pop(claim.key, None)
            if self._interrupted.pop(claim.key, None) is not None and me is not None:
                me.uncancel()

    def running(self) -> frozenset[Key]:
        """Return the attempts that are under way."""
        return frozenset(self._running)

    def interrupt(self, attempts: Iterable[Key], reason: Interruption) -> None:
        """Cancel these attempts, as far as they are under way; each one once."""
        for key in attempts:
            if key in self._running and key not in self._interrupted:
                self._interrupted[key] = reason
                self._running[key].cancel()

    async def _attempt(self, claim: Claim, scope: Scope) -> Outcome | None:
        task = self._tasks.get(claim.task)
        if task is None:
            return unknown_here(claim)
        try:
            args = task.decoder.decode(claim.args)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            return rejected(claim, error, f"the arguments do not fit the task {claim.task} of this code")
        policy = task.policy_for(args)
        bound = asyncio.timeout(policy.timeout_seconds)
        try:
            return await self._run(claim, task, args, bound)
        except FencedError:
            logger.warning("attempt_fenced", job_id=str(claim.job_id), attempt=claim.attempt)
            return None
        except _RAISED as error:  # failure table: whatever a task raises is an outcome on record
            reason = self._interrupted.get(claim.key)
            if reason is not None:
                return _interrupted(claim, error, reason)
            outcome = _failed(claim, error, policy.retry, timed_out=bound.expired())
            with suppress(Exception):  # an error whose own text cannot be made
                scope.failed(error)
            return outcome

    async def _run(
        self, claim: Claim, task: Task[Any, Any], args: msgspec.Struct, bound: asyncio.Timeout
    ) -> Outcome | None:
        try:
            async with AsyncExitStack() as stack:
                context = Run(claim, record=self._record, providers=self._providers, stack=stack, seats=self._seats)
                async with bound:
                    value = await task.function(context, **msgspec.structs.asdict(args))
                outcome = succeeded(claim, value)
                if context.session is None:
                    return outcome
                await _settle(context.session, outcome)
                return None
        except _RefusedError as refused:
            return refused.outcome


async def _settle(session: Transaction, outcome: Outcome) -> None:
    """Settle within the session. Where this raises, it rolls back, whichever way its statements went."""
    if outcome.state is not JobState.SUCCEEDED:
        raise _RefusedError(outcome)
    await settle_within(session, outcome)


def _interrupted(claim: Claim, error: BaseException, reason: Interruption) -> Outcome:
    """Decide for an attempt that was cancelled from outside, whatever its task made of the cancellation."""
    match reason:
        case Interruption.REQUESTED:
            return cancelled(claim, error)
        case Interruption.SHUTDOWN | Interruption.LOST:  # of a lost one the fence refuses it, as it should
            return handed_back(claim)


def _failed(claim: Claim, error: BaseException, retry: Retry, *, timed_out: bool) -> Outcome:
    me = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError):
        if me is not None and me.cancelling():
            raise error  # somebody cancels the worker itself
        within = RuntimeError("the task was cancelled from within")
        within.__cause__ = error
        return failed(claim, within, retry)
    return failed(claim, error, retry, timed_out=timed_out, not_its_fault=is_record_away(error))
