"""The processes of a stack as a whole.

Owns which of them run, the true record of it in `stack.json`, and the order of their end. A process that dies is
started again by its `Child`; one that cannot start at all while the stack comes up is reported with the end of its
log. Never leave the block with a process running, whatever ended it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from headrace.errors import HeadraceError
from headrace.loops import Stop
from headrace.stack import stackfile
from headrace.stack.child import Child, spawn
from headrace.stack.program import Program
from headrace.stack.stackfile import Whereabouts

StopOrder = tuple[tuple[str, ...], ...]

_HOPELESS_DEATHS = 3
_LOG_LINES = 15
_LOOK_SECONDS = 0.1


class StartError(HeadraceError):
    """A process does not come up; the message carries the end of its log."""


class Supervisor:
    """Starts programs and keeps them running. Made by `supervising`."""

    def __init__(self, directory: Path, whereabouts: Whereabouts, tasks: asyncio.TaskGroup) -> None:
        self._directory = directory
        self._whereabouts = whereabouts
        self._tasks = tasks
        self._logs = directory / "logs"
        self._logs.mkdir(exist_ok=True)
        self._children: dict[str, Child] = {}

    def start(self, program: Program) -> None:
        """Begin to keep a program running."""
        child = Child(program, self._log_of(program), self._write)
        self._children[program.name] = child
        self._tasks.create_task(child.run(), name=program.name)

    async def run_once(self, program: Program) -> None:
        """Run a program to its end.

        Raises:
            StartError: it failed.

        """
        process = await spawn(program, self._log_of(program))
        try:
            code = await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        if code != 0:
            message = f"{program.name} failed:\n{_end_of(self._log_of(program))}"
            raise StartError(message)

    async def wait_for(self, name: str, question: Callable[[], Awaitable[bool]], timeout_seconds: float) -> None:
        """Wait until the question is answered with yes.

        Raises:
            StartError: a process died three times meanwhile, or the time is up.

        """
        try:
            async with asyncio.timeout(timeout_seconds):
                while not await question():
                    self._refuse_hopeless()
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError as error:
            message = f"{name} did not come up within {timeout_seconds:.0f} seconds; all output is in {self._logs}"
            raise StartError(message) from error

    async def stop(self, order: StopOrder, hurry: Stop) -> None:
        """End everything: the named groups one after the other, then what no group names.

        When `hurry` is set, what has not ended by then is killed, except the last group, the stores.
        """
        hurrying = asyncio.create_task(self._kill_when(hurry, spared=order[-1] if order else ()))
        named = {name for group in order for name in group}
        rest = tuple(name for name in self._children if name not in named)
        for group in (*order, rest):
            await asyncio.gather(*(child.stop() for name, child in self._children.items() if name in group))
        hurrying.cancel()
        await asyncio.wait([hurrying])
        stackfile.forget(self._directory)

    async def _kill_when(self, hurry: Stop, spared: tuple[str, ...]) -> None:
        await hurry.wait()
        for name, child in self._children.items():
            if name not in spared:
                child.kill()

    def _log_of(self, program: Program) -> Path:
        return self._logs / f"{program.name}.log"

    def _refuse_hopeless(self) -> None:
        for name, child in self._children.items():
            if child.deaths >= _HOPELESS_DEATHS:
                message = f"{name} does not start:\n{_end_of(child.log)}"
                raise StartError(message)

    def _write(self) -> None:
        running = {name: child.pid for name, child in self._children.items() if child.pid is not None}
        sink_pid = running.pop("sink", None)
        stackfile.write(
            self._directory, msgspec.structs.replace(self._whereabouts, sink_pid=sink_pid, processes=running)
        )


@asynccontextmanager
async def supervising(
    directory: Path, whereabouts: Whereabouts, stop_order: StopOrder = (), hurry: Stop | None = None
) -> AsyncIterator[Supervisor]:
    """Give a supervisor for the block, and end its processes in that order whatever ends the block.

    Args:
        directory: holds `stack.json` and `logs`.
        whereabouts: what `stack.json` says beside the process ids.
        stop_order: groups of names; one group ends after the other, the stores last.
        hurry: set by who cannot wait for running work any more.

    """
    stackfile.forget(directory)
    async with asyncio.TaskGroup() as tasks:
        supervisor = Supervisor(directory, whereabouts, tasks)
        try:
            yield supervisor
        finally:
            await supervisor.stop(stop_order, hurry or Stop())


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
