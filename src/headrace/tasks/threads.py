"""Threads for tasks that are plain functions: they may block, and the worker's event loop goes on.

Owns a bounded number of threads, made when first needed and used again, so that what a library keeps per thread stays.
A function sees the context variables of its run, and with them its trace. Nothing can stop a thread: one whose run is
over while it goes on is left behind, and keeps its seat until its function returns. The threads are daemons: a worker
that ends does not wait for them.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

DEFAULT_THREADS: Final = 32

_Work = Callable[[], None]


@dataclass(frozen=True, slots=True)
class _Returned(Generic[T]):
    value: T


@dataclass(frozen=True, slots=True)
class _Raised:
    error: BaseException


_Ended = _Returned[T] | _Raised


class Seat:
    """The right to use one thread; given back by whoever holds it, or by the thread that was left behind."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self.busy: asyncio.Future[Any] | None = None
        """What the thread is at; done when it is free."""

    async def wait(self, timeout_seconds: float) -> bool:
        """Wait until the thread is free or the time is up; tell whether it is free."""
        if self.busy is not None:
            await asyncio.wait([self.busy], timeout=timeout_seconds)
        return self.busy is None or self.busy.done()

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function in a thread and return what it returns. A cancellation leaves the thread alone."""
        future: asyncio.Future[_Ended[T]] = asyncio.get_running_loop().create_future()
        self.busy = future
        self._threads.give(_work(function, future))
        ended = await asyncio.shield(future)
        if isinstance(ended, _Raised):
            raise ended.error
        return ended.value


class Threads:
    """At most `limit` threads."""

    def __init__(self, limit: int = DEFAULT_THREADS) -> None:
        self._seats = asyncio.Semaphore(limit)
        self._queue: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._limit = limit
        self._made = 0
        self._taken = 0

    @asynccontextmanager
    async def seat(self) -> AsyncIterator[Seat]:
        """Wait for a free thread and hold it for the block; one that is still busy then stays taken until it is not."""
        await self._seats.acquire()
        self._taken += 1
        seat = Seat(self)
        try:
            yield seat
        finally:
            if seat.busy is None or seat.busy.done():
                self._free()
            else:
                seat.busy.add_done_callback(lambda _: self._free())

    def give(self, work: _Work) -> None:
        """Let a thread do some work; the caller holds a seat."""
        if self._made < min(self._taken, self._limit):
            self._made += 1
            threading.Thread(target=self._serve, name=f"task-{self._made}", daemon=True).start()
        self._queue.put(work)

    def _free(self) -> None:
        self._taken -= 1
        self._seats.release()

    def _serve(self) -> None:
        while True:
            self._queue.get()()


def _work(function: Callable[[], T], future: asyncio.Future[_Ended[T]]) -> _Work:
    loop, context = asyncio.get_running_loop(), copy_context()

    def work() -> None:
        ended: _Ended[T]
        try:
            ended = _Returned(context.run(function))
        except BaseException as error:  # noqa: BLE001 - failure table: whatever a task raises is an outcome on record
            ended = _Raised(error)
        with suppress(RuntimeError):  # the loop is closed: the worker has ended without this thread
            loop.call_soon_threadsafe(future.set_result, ended)

    return work
