"""Where functions run is decided, and refused, when a task is declared."""

from __future__ import annotations

import pytest

from headrace.errors import ConfigurationError
from headrace.tasks.contract import task
from headrace.tasks.policy import RunsIn
from headrace.tasks.run import Run
from headrace.tasks.sync_run import SyncRun, ThreadRun
from tests import running


def test_place_is_that_of_the_function_when_none_is_chosen() -> None:
    """A coroutine function runs on the loop, a plain one in a thread, and in a process if it is told."""
    places = [one.policy.runs_in for one in (running.wait, running.thread, running.process)]

    assert places == [RunsIn.LOOP, RunsIn.THREAD, RunsIn.PROCESS]


def test_declaration_is_refused_when_a_coroutine_function_is_to_run_in_a_process() -> None:
    """It would need a loop of its own."""
    with pytest.raises(ConfigurationError, match="async def"):

        @task("shop.wrong", runs_in="process")
        async def wrong(run: Run) -> None:
            del run


def test_declaration_is_refused_when_a_process_could_not_find_the_function() -> None:
    """A child imports the module and looks there."""
    with pytest.raises(ConfigurationError, match="top of its module"):

        @task("shop.wrong", runs_in="process")
        def wrong(run: SyncRun) -> None:
            del run


def test_declaration_is_refused_when_a_plain_function_wants_the_run_of_the_loop() -> None:
    """Nothing of a `Run` may be used in a thread."""
    with pytest.raises(ConfigurationError, match="ThreadRun or SyncRun"):

        @task("shop.wrong")  # type: ignore[arg-type]  # what mypy refuses too
        def wrong(run: Run) -> None:
            del run


def test_declaration_is_refused_when_a_coroutine_function_wants_the_run_of_a_thread() -> None:
    """It would wait for itself."""
    with pytest.raises(ConfigurationError, match="the run is a Run"):

        @task("shop.wrong")
        async def wrong(run: ThreadRun) -> None:
            del run
