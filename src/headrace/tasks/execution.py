"""One attempt of a job, from its claim to the decision about it.

Owns what happens around a task's function: decode the arguments, run under the timeout, decide. A task that used its
session is settled in that session's transaction, so that effects and outcome commit together; any other outcome is
returned, to be recorded with those of its neighbours. Nothing that a task raises leaves here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from enum import Enum, auto
from typing import Any
from uuid import UUID

import msgspec
import structlog

from headrace.clock import now
from headrace.database.record import Record
from headrace.database.states import JobState
from headrace.errors import FencedError
from headrace.jobs.model import Claim, Outcome
from headrace.jobs.settle import settle_within
from headrace.providers import Providers
from headrace.tasks.contract import Task
from headrace.tasks.outcome import cancelled, failed, handed_back, rejected, succeeded, unknown_here
from headrace.tasks.run import Run
from headrace.telemetry.messages import Message
from headrace.telemetry.scope import Scope
from headrace.telemetry.spans import run

logger = structlog.get_logger(__name__)


class Interruption(Enum):
    """Why a running attempt is cancelled from outside."""

    REQUESTED = auto()
    """Somebody cancelled the job."""
    SHUTDOWN = auto()
    """The worker stops and its patience is over."""
    LOST = auto()
    """The worker's lease was lost: the job runs elsewhere by now."""


class Execution:
    """Runs attempts; knows those that are under way."""

    def __init__(self, tasks: Mapping[str, Task[Any, Any]], record: Record, providers: Providers) -> None:
        self._tasks = tasks
        self._record = record
        self._providers = providers
        self._running: dict[UUID, asyncio.Task[Any]] = {}
        self._interrupted: dict[UUID, Interruption] = {}

    async def execute(self, claim: Claim) -> Outcome | None:
        """Run one attempt; return what is to be recorded, None where nothing is left to record."""
        me = asyncio.current_task()
        if me is not None:
            self._running[claim.job_id] = me
        try:
            age = (now() - claim.created_at).total_seconds()
            message = Message(claim.job_id, claim.traceparent, age_seconds=age, attempt=claim.attempt)
            with run(claim.queue, message, task=claim.task) as scope:
                return await self._attempt(claim, scope)
        finally:
            self._running.pop(claim.job_id, None)
            self._interrupted.pop(claim.job_id, None)

    def interrupt(self, job_ids: list[UUID] | None, reason: Interruption) -> None:
        """Cancel the attempts of these jobs, or all of them where `job_ids` is None."""
        for job_id in list(self._running) if job_ids is None else job_ids:
            if job_id in self._running and job_id not in self._interrupted:
                self._interrupted[job_id] = reason
                self._running[job_id].cancel()

    async def _attempt(self, claim: Claim, scope: Scope) -> Outcome | None:
        task = self._tasks.get(claim.task)
        if task is None:
            return unknown_here(claim)
        try:
            args = msgspec.json.decode(claim.args, type=task.args_type)
        except msgspec.DecodeError as error:
            return rejected(claim, error, f"the arguments do not fit the task {claim.task} of this code")
        policy = task.policy_for(args)
        bound = asyncio.timeout(policy.timeout_seconds)
        try:
            return await self._run(claim, task, args, bound)
        except asyncio.CancelledError as error:
            return self._decide_interrupted(claim, error)
        except FencedError:
            logger.warning("attempt_fenced", job_id=str(claim.job_id), attempt=claim.attempt)
            return None
        except Exception as error:  # noqa: BLE001 - failure table: whatever a task raises is an outcome on record
            scope.failed(error)
            return failed(claim, error, policy.retry, timed_out=bound.expired())

    async def _run(
        self, claim: Claim, task: Task[Any, Any], args: msgspec.Struct, bound: asyncio.Timeout
    ) -> Outcome | None:
        async with AsyncExitStack() as stack:
            context = Run(claim, record=self._record, providers=self._providers, stack=stack)
            async with bound:
                value = await task.function(context, **msgspec.structs.asdict(args))
            outcome = succeeded(claim, value)
            if context.session is None:
                return outcome
            if outcome.state is not JobState.SUCCEEDED:
                await context.session.connection.rollback()
                return outcome
            await settle_within(context.session, outcome)
            return None

    def _decide_interrupted(self, claim: Claim, error: asyncio.CancelledError) -> Outcome | None:
        """Decide for an attempt that was cancelled; a cancellation that is not ours passes on."""
        reason = self._interrupted.get(claim.job_id)
        me = asyncio.current_task()
        if reason is None or me is None:
            raise error
        me.uncancel()
        match reason:
            case Interruption.REQUESTED:
                return cancelled(claim, error)
            case Interruption.SHUTDOWN:
                return handed_back(claim)
            case Interruption.LOST:
                return None
