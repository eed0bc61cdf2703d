"""The run as a plain function sees it, in a thread or in a process of its own.

Owns what of a `Run` is usable without `await`. Nobody can stop a plain function from outside as a cancellation stops a
coroutine: in a thread an interruption is raised where the function next uses its run (`progress`, `check`, `on_loop`);
in a process it is raised at once, wherever the function is. A function in a thread reaches the worker's event loop,
and with it the session of the attempt, by `on_loop`.
Never hand the async `Run` itself to a thread: nothing of it may be used outside the loop's thread.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, Concatenate, ParamSpec, TypeVar

from headrace.tasks.attempt import Attempt
from headrace.tasks.facts import RunFacts
from headrace.tasks.run import Run

P = ParamSpec("P")
T = TypeVar("T")


class InterruptedRunError(BaseException):
    """Raised inside a plain function whose run is over: cancelled, timed out, handed back or taken over.

    Like `asyncio.CancelledError` it is no `Exception`: `finally` runs, `except Exception` lets it pass.
    """


class SyncRun(RunFacts, ABC):
    """One attempt of a job, as a plain function sees it."""

    @property
    @abstractmethod
    def interrupted(self) -> bool:
        """Whether this run is over: what it still does counts for nothing."""

    @abstractmethod
    def progress(self, done: float, total: float, note: str = "") -> None:
        """Tell how far this run is; see `Run.progress`.

        Raises:
            InterruptedRunError: the run is over.

        """

    def check(self) -> None:
        """Do nothing, as long as the run goes on; call it in long loops.

        Raises:
            InterruptedRunError: the run is over.

        """
        if self.interrupted:
            message = f"the run of {self.job_id} is over"
            raise InterruptedRunError(message)


class ThreadRun(SyncRun):
    """One attempt of a job, as a function in a thread sees it."""

    def __init__(self, run: Run, attempt: Attempt) -> None:
        super().__init__(attempt.claim)
        self._run = run
        self._attempt = attempt
        self._loop = asyncio.get_running_loop()
        self._over = threading.Event()
        self._calls: set[asyncio.Task[Any]] = set()

    @property
    def interrupted(self) -> bool:
        """Whether this run is over: what it still does counts for nothing."""
        return self._over.is_set()

    def interrupt(self) -> None:
        """Say that the run is over: the function notices when it next looks, what it waits for is cancelled."""
        self._over.set()
        for call in self._calls:
            call.cancel()

    def progress(self, done: float, total: float, note: str = "") -> None:
        """Tell how far this run is; see `Run.progress`.

        Raises:
            InterruptedRunError: the run is over.

        """
        self.check()
        self._loop.call_soon_threadsafe(self._run.report, done, total, note)

    def get(self, kind: type[T]) -> T:
        """Return the instance of `kind` that an application provides; it must be safe to use in threads."""
        return self._run.get(kind)

    def on_loop(
        self, function: Callable[Concatenate[Run, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a coroutine function on the worker's event loop, with the async run of this attempt, and wait for it.

        Raises:
            InterruptedRunError: the run is over.

        Example:
            >>> async def store(run: Run, name: str) -> None:
            ...     tx = await run.begin()
            ...     await tx.connection.execute(insert(pages).values(name=name))
            ...
            >>> run.on_loop(store, "cover")

        """
        self.check()
        return self._wait_for(function(self._run, *args, **kwargs))

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Defer interruption and timeout to the end of the block.

        Raises:
            InterruptedRunError: before the block, or after it: the run is over.

        """
        self.check()
        self._wait_for(self._hold())
        try:
            yield
        finally:
            self._wait_for(self._release())
        self.check()

    async def _hold(self) -> None:
        if self._attempt.interruption is not None or self._attempt.overdue:
            self._over.set()
            self.check()
        self._attempt.hold()

    async def _release(self) -> None:
        self._attempt.release()
        await asyncio.sleep(0)  # a deferred interruption comes here

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        done: Future[T] = Future()

        def begin() -> None:
            call = self._loop.create_task(work)
            self._calls.add(call)
            call.add_done_callback(ended)

        def ended(call: asyncio.Task[T]) -> None:
            self._calls.discard(call)
            if call.cancelled():
                done.set_exception(InterruptedRunError(f"the run of {self.job_id} is over"))
            elif (error := call.exception()) is not None:
                done.set_exception(error)
            else:
                done.set_result(call.result())

        self._loop.call_soon_threadsafe(begin, context=copy_context())
        return done.result()
