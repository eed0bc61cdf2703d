"""Where a task's function can run, decided when it is declared.

Owns the refusals: what could not run where it should, or would get another run than it expects, stops the process at
its start with the task's name, and not its first job.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

from headrace.errors import ConfigurationError
from headrace.tasks.policy import RunsIn
from headrace.tasks.run import Run
from headrace.tasks.signature import hints_of
from headrace.tasks.sync_run import SyncRun, ThreadRun

_RUNS: Final[Mapping[RunsIn, tuple[type, ...]]] = {
    RunsIn.LOOP: (Run,),
    RunsIn.THREAD: (ThreadRun, SyncRun),
    RunsIn.PROCESS: (SyncRun,),
}
"""What the run may be called in the signature."""


def place_of(name: str, function: Callable[..., Any], chosen: str | None) -> RunsIn:
    """Return where a function runs: a coroutine function on the loop, a plain one in a thread or as `chosen`.

    Raises:
        ConfigurationError: it cannot run there.

    """
    place = _place_of(name, function, chosen)
    if place is RunsIn.PROCESS and function.__qualname__ != function.__name__:
        _refuse(name, "a process finds a function only at the top of its module")
    first = next(iter(inspect.signature(function).parameters), None)
    annotated = hints_of(name, function).get(first or "")
    if isinstance(annotated, type) and issubclass(annotated, (Run, SyncRun)) and annotated not in _RUNS[place]:
        expected = " or ".join(one.__name__ for one in _RUNS[place])
        _refuse(name, f"its function runs in a {place}, where the run is a {expected} and no {annotated.__name__}")
    return place


def _place_of(name: str, function: Callable[..., Any], chosen: str | None) -> RunsIn:
    if not inspect.iscoroutinefunction(function):
        return RunsIn(chosen or RunsIn.THREAD)
    if chosen is not None:
        _refuse(name, f"what is declared with `async def` runs on the event loop and not in a {chosen}")
    return RunsIn.LOOP


def _refuse(name: str, reason: str) -> None:
    message = f"the task {name}: {reason}"
    raise ConfigurationError(message)
