"""Where plain functions run, away from the event loop.

Owns what an interruption or a timeout means there. A thread cannot be stopped: its function is told, and has a moment
to notice; one that does not is left behind, its attempt ends without it, and nothing that it still does through its run
counts. Waiting for a free thread is not part of the timeout: a job that has not begun is not late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import structlog

from headrace.tasks.attempt import Attempt
from headrace.tasks.policy import Policy
from headrace.tasks.run import Run
from headrace.tasks.sync_run import ThreadRun
from headrace.tasks.threads import Seat, Threads

logger = structlog.get_logger(__name__)

_GRACE_SECONDS: Final = 0.5
"""How long a thread has to notice that its run is over: within a second a cancelled job is cancelled on record."""


class Places:
    """The threads of a worker."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads

    async def run(self, attempt: Attempt, run: Run, work: Callable[..., Any], policy: Policy) -> object:
        """Run a task's function, bound to its arguments, where its policy says; return what it returns."""
        async with self._threads.seat() as seat, attempt.bound(policy.timeout_seconds):
            thread_run = ThreadRun(run, attempt)
            try:
                return await seat.run(partial(work, thread_run))
            except asyncio.CancelledError:
                thread_run.interrupt()
                await _end_of(seat, attempt)
                raise


async def _end_of(seat: Seat, attempt: Attempt) -> None:
    if not await seat.wait(_GRACE_SECONDS):
        logger.warning("thread_left_behind", task=attempt.claim.task, job_id=str(attempt.claim.job_id))
