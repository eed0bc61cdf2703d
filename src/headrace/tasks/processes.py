"""Child processes for plain functions that keep a CPU busy, or must be killed when their time is up.

Owns a bounded number of children, each with a socket of its own, started when first needed and kept warm. A child
whose run is interrupted or overdue is told by SIGTERM, killed half a second later, and replaced; what it has started
is killed with it, also where it ended in time. One that dies is a failed attempt with the reason, and nobody else
notices. No pool of a library does this: their children share one pipe and its lock (one that is killed holding it
stops them all), talk pickle, and outlive a worker that is killed. Never fork: the worker has threads.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from headrace.jobs.model import Outcome
from headrace.tasks.child_messages import LENGTH, Begin, Ended, Progressed, Said, framed, said_by

logger = structlog.get_logger(__name__)

_GRACE_SECONDS: Final = 0.5
"""How long a child has for its `finally`: within a second a cancelled job is cancelled on record."""
_END_SECONDS: Final = 2.0


class ChildDiedError(Exception):
    """The process of a run has died; the message says how."""


class Child:
    """One child process; make it with `start_child`."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    @property
    def lives(self) -> bool:
        """Whether the process is there, as far as is known."""
        return self._process.returncode is None and not self._reader.at_eof()

    async def run(self, begin: Begin, on_progress: Callable[[Progressed], None]) -> Outcome:
        """Run one attempt to its end.

        Raises:
            ChildDiedError: the process ended before the attempt did.

        """
        try:
            self._writer.write(framed(begin))
            await self._writer.drain()
        except ConnectionError as error:
            raise ChildDiedError(await self._how_it_died()) from error
        while not isinstance(said := await self.heard(), Ended):
            if isinstance(said, Progressed):
                on_progress(said)
        return said.outcome

    async def heard(self) -> Said:
        """Wait for what the child says next.

        Raises:
            ChildDiedError: the process has ended.

        """
        try:
            length = int.from_bytes(await self._reader.readexactly(LENGTH))
            return said_by(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise ChildDiedError(await self._how_it_died()) from error

    async def end(self) -> None:
        """Interrupt what runs, give it a moment, and kill what is left."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(_GRACE_SECONDS):
                    await self._process.wait()
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # it leads a group: what it has started outlives it
            await self._process.wait()
        self._writer.close()

    async def _how_it_died(self) -> str:
        try:
            async with asyncio.timeout(_END_SECONDS):
                code = await self._process.wait()
        except TimeoutError:
            return "the process of the run has closed its socket"
        if code >= 0:
            return f"the process of the run has ended with exit code {code}"
        name = signal.Signals(-code).name
        hint = ": from outside, or by the kernel because memory ran out" if -code == signal.SIGKILL else ""
        return f"the process of the run was killed by {name}{hint}"


async def start_child() -> Child:
    """Start a child process; returns when it is ready.

    Raises:
        ChildDiedError: it has ended at once.

    """
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "headrace.tasks.child", str(theirs.fileno()), str(os.getpid()),
            pass_fds=(theirs.fileno(),), stdin=asyncio.subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )  # fmt: skip
    child = Child(process, *await asyncio.open_connection(sock=ours))
    try:
        await child.heard()
    except BaseException:
        await child.end()
        raise
    return child


class Processes:
    """At most `limit` children."""

    def __init__(self, limit: int) -> None:
        self._seats = asyncio.Semaphore(limit)
        self._idle: list[Child] = []

    async def take(self) -> Child:
        """Wait until a child may be had, and return one that lives; give it back, or `discard` it."""
        await self._seats.acquire()
        try:
            while self._idle:
                child = self._idle.pop()
                if child.lives:
                    return child
                await child.end()
            return await start_child()
        except BaseException:
            self._seats.release()
            raise

    def give_back(self, child: Child) -> None:
        """Keep a child for the next run."""
        self._idle.append(child)
        self._seats.release()

    async def discard(self, child: Child) -> None:
        """End a child whose run is over while it goes on."""
        try:
            await child.end()
        finally:
            self._seats.release()

    async def close(self) -> None:
        """End the idle children; those that run end with their runs."""
        idle, self._idle = self._idle, []
        await asyncio.gather(*(child.end() for child in idle))
