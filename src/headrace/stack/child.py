"""One process of the stack, kept running.

Owns the life of a program: started, watched, started again after a death with a growing pause, and ended when asked.
Its output is appended to its log. Whatever it started dies with it: it leads a process group of its own, of which
nothing is left behind, and which also keeps a Ctrl-C of the terminal away from it, so that the stack ends in its own
order. Never give up on a program that dies: the store that it needs may be back in a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable
from pathlib import Path

import psutil
import structlog

from headrace.loops import Pace, Stop
from headrace.stack.program import Program

logger = structlog.get_logger(__name__)

_RESTARTS = Pace(interval_seconds=0, first_backoff_seconds=0.1, last_backoff_seconds=5.0)
_STEADY_SECONDS = 10.0
_LOOK_SECONDS = 0.2


class Child:
    """Keeps one program running; `changed` is called whenever `pid` has another value."""

    def __init__(self, program: Program, log: Path, changed: Callable[[], None]) -> None:
        self.program = program
        self.log = log
        self.pid: int | None = None
        self.deaths = 0
        self._changed = changed
        self._stop = Stop()
        self._starting = asyncio.Lock()
        self._process: Process | None = None

    async def run(self) -> None:
        """Run the program until `stop` was called and it has ended."""
        quick_deaths = 0
        while not self._stop.is_set():
            started_at = time.monotonic()
            process = await self._start()
            if process is None:
                return
            code = await self._watch(process)
            _end_group(process.pid)
            if self._stop.is_set():
                return
            self.deaths += 1
            quick_deaths = quick_deaths + 1 if time.monotonic() - started_at < _STEADY_SECONDS else 0
            logger.warning("process_died", process=self.program.name, code=code, log=str(self.log))
            await self._stop.wait(_RESTARTS.backoff_seconds(quick_deaths))

    async def stop(self) -> None:
        """Ask the program to end, and after `stop_seconds` make it; returns when it has ended."""
        self._stop.set()
        async with self._starting:
            process = self._process
        if process is None or process.returncode is not None:
            return
        _send(process.pid, self.program.stop_signal)
        try:
            async with asyncio.timeout(self.program.stop_seconds):
                await process.wait()
        except TimeoutError:
            logger.warning("process_killed", process=self.program.name, waited_seconds=self.program.stop_seconds)
        _end_group(process.pid)
        await process.wait()

    def kill(self) -> None:
        """End the program at once and for good, with whatever it started."""
        self._stop.set()
        if self._process is not None and self._process.returncode is None:
            _end_group(self._process.pid)

    async def _start(self) -> Process | None:
        async with self._starting:
            if self._stop.is_set():
                return None
            self._process = await spawn(self.program, self.log)
            return self._process

    async def _watch(self, process: Process) -> int:
        """Keep `pid` true until the process ends, and return its exit code."""
        if not self.program.work_in_child:
            self._set_pid(process.pid)
            code = await process.wait()
            self._set_pid(None)
            return code
        ended, worker = asyncio.create_task(process.wait()), None
        while not ended.done():
            if worker is None or not _works(worker):
                worker = _working_child(process.pid)
                self._set_pid(worker.pid if worker else None)
            await asyncio.wait([ended], timeout=_LOOK_SECONDS)
        self._set_pid(None)
        return await ended

    def _set_pid(self, pid: int | None) -> None:
        if pid != self.pid:
            self.pid = pid
            self._changed()


async def spawn(program: Program, log: Path) -> Process:
    """Start a program as the leader of a process group of its own, its output appended to `log`."""
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *program.argv(),
            env=dict(program.environment),
            cwd=program.working_directory,
            stdin=DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _end_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _working_child(parent: int) -> psutil.Process | None:
    """Return the child that works: not a dead one, nor multiprocessing's own tracker."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return next(filter(_works, psutil.Process(parent).children()), None)
    return None


def _works(process: psutil.Process) -> bool:
    try:
        alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return alive and "resource_tracker" not in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False
