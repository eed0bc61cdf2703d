"""An attempt under way, as others may interrupt it.

Owns the moment at which an interruption arrives. One counts, the first; it is a cancellation at the next `await` of the
task, so that `finally` and `async with` run and may await. A section that the task holds (`run.shield()`) defers it to
the end of the section, and the timeout as well. What has ended is not interrupted any more.
Never cancel the asyncio task of an attempt past this: nobody would know why it was cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import Enum, auto
from typing import Any, Final

from headrace.jobs.model import Claim
from headrace.telemetry.scope import Scope

SOON_SECONDS: Final = 1.0
"""A timeout from here on waits for its timer; attempts are armed within this time."""


class Interruption(Enum):
    """Why a running attempt is cancelled from outside."""

    REQUESTED = auto()
    """Somebody cancelled the job."""
    SHUTDOWN = auto()
    """The worker stops and its patience is over."""
    LOST = auto()
    """The worker's lease was lost: the job runs elsewhere by now."""


class Attempt:
    """One attempt under way in this process; the event loop's thread alone calls its methods."""

    # as defaults of the class, because one is made for every job and hardly any is interrupted
    interruption: Interruption | None = None
    """Why the attempt ends, from the moment at which that was asked for."""
    scope: Scope | None = None
    """The span of the run."""
    _bound: asyncio.Timeout | None = None
    _held = 0
    _due_at: float | None = None
    _cancelled = False

    def __init__(self, claim: Claim, task: asyncio.Task[Any]) -> None:
        self.claim = claim
        self._task: asyncio.Task[Any] | None = task

    def runs_in(self, task: asyncio.Task[Any]) -> bool:
        """Tell whether this is the asyncio task of the attempt."""
        return self._task is task

    def bound(self, timeout_seconds: float | None) -> asyncio.Timeout:
        """Return the timeout to run under; a long one has no timer before `arm` gives it one."""
        if timeout_seconds is None or timeout_seconds < SOON_SECONDS:
            self._bound = asyncio.timeout(timeout_seconds)
        else:
            self._bound = asyncio.timeout(None)
            self._due_at = asyncio.get_running_loop().time() + timeout_seconds
        return self._bound

    def arm(self) -> None:
        """Give the timeout its timer, unless a section is held: its end does that.

        For a job that does little a timer of its own costs as much as the rest of its run. Whoever looks at the
        attempts now and then gives it to those that are still under way.
        """
        if self._bound is not None and self._due_at is not None and not self._held:
            with suppress(RuntimeError):  # the function has ended, and is being settled
                self._bound.reschedule(self._due_at)
                self._due_at = None

    @property
    def lives(self) -> bool:
        """Whether the attempt is under way."""
        return self._task is not None

    @property
    def overdue(self) -> bool:
        """Whether the timeout has run out."""
        return self._bound is not None and self._bound.expired()

    def interrupt(self, reason: Interruption) -> None:
        """Cancel the task, at the end of the section where it holds one; only the first interruption counts."""
        if self.interruption is None:
            self.interruption = reason
            if not self._held:
                self._cancel()

    def end(self) -> None:
        """Forget the task: it goes on with something else, and must not notice that it was cancelled."""
        task, self._task = self._task, None
        if self._cancelled and task is not None:
            task.uncancel()

    @asynccontextmanager
    async def shield(self) -> AsyncIterator[None]:
        """Defer interruption and timeout to the end of the block."""
        self.hold()
        try:
            yield
        finally:
            self.release()
        await asyncio.sleep(0)  # a deferred interruption comes here

    def hold(self) -> None:
        """Begin a section; it may lie within another, or beside one of another asyncio task of the run."""
        self._held += 1
        if self._held == 1 and self._bound is not None and not self._bound.expired():
            if self._due_at is None:
                self._due_at = self._bound.when()
            self._bound.reschedule(None)

    def release(self) -> None:
        """End a section; what was deferred comes at the next turn of the loop."""
        self._held -= 1
        if self._held:
            return
        self.arm()
        if self.interruption is not None:
            asyncio.get_running_loop().call_soon(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None and not self._cancelled and not self._held:
            self._cancelled = True
            self._task.cancel()
