"""Where plain functions run, away from the event loop.

Owns what an interruption or a timeout means there. A thread cannot be stopped: its function is told, and has a moment
to notice; one that does not is left behind, its attempt ends without it, and nothing that it still does through its run
counts. A process is ended, if need be killed. Waiting for a free thread or process is not part of the timeout: a job
that has not begun is not late.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Final, cast

import msgspec
import structlog

from headrace.jobs.model import Outcome
from headrace.tasks.attempt import Attempt
from headrace.tasks.child_messages import Begin, Progressed
from headrace.tasks.contract import Task
from headrace.tasks.outcome import returned
from headrace.tasks.policy import Policy, RunsIn
from headrace.tasks.processes import Processes
from headrace.tasks.run import Run
from headrace.tasks.sync_run import ThreadRun
from headrace.tasks.threads import DEFAULT_THREADS, Seat, Threads

logger = structlog.get_logger(__name__)

_GRACE_SECONDS: Final = 0.5
"""How long a thread has to notice that its run is over: within a second a cancelled job is cancelled on record."""


class Places:
    """The threads and the child processes of a worker; as many children as it may use CPUs where no number is given."""

    def __init__(self, threads: int = DEFAULT_THREADS, processes: int | None = None) -> None:
        self._threads = Threads(threads)
        self._processes = Processes(processes or len(os.sched_getaffinity(0)))

    async def run(
        self, attempt: Attempt, run: Run, task: Task[Any, Any], args: msgspec.Struct, policy: Policy
    ) -> Outcome:
        """Run a task's function where its policy says; return what became of it, or raise what it raised.

        Raises:
            ChildDiedError: its process has died.

        """
        if policy.runs_in is RunsIn.PROCESS:
            return await self._in_process(attempt, run, task, policy)
        async with self._threads.seat() as seat, attempt.bound(policy.timeout_seconds):
            thread_run = ThreadRun(run, attempt)
            function = cast("Callable[..., object]", task.function)
            try:
                value = await seat.run(partial(function, thread_run, **msgspec.structs.asdict(args)))
            except asyncio.CancelledError:
                thread_run.interrupt()
                await _end_of(seat, attempt)
                raise
        return returned(attempt.claim, value, stored=policy.result)

    async def close(self) -> None:
        """End the idle child processes."""
        await self._processes.close()

    async def _in_process(self, attempt: Attempt, run: Run, task: Task[Any, Any], policy: Policy) -> Outcome:
        traceparent = attempt.scope.traceparent if attempt.scope else attempt.claim.traceparent
        begin = Begin(attempt.claim, task.function.__module__, task.name, traceparent)

        def on_progress(said: Progressed) -> None:
            run.report(said.done, said.total, said.note)

        child = await self._processes.take()
        try:
            async with attempt.bound(policy.timeout_seconds):
                outcome = await child.run(begin, on_progress)
        except BaseException:
            await self._processes.discard(child)
            raise
        self._processes.give_back(child)
        return outcome


async def _end_of(seat: Seat, attempt: Attempt) -> None:
    if not await seat.wait(_GRACE_SECONDS):
        logger.warning("thread_left_behind", task=attempt.claim.task, job_id=str(attempt.claim.job_id))
