"""How a command runs a process: on uvloop, until a signal asks it to stop.

Owns the signals. SIGINT and SIGTERM set the stop flag; the process then ends in order and the command with exit code 0.
A second signal changes nothing: whoever cannot wait sends SIGKILL, which everything here survives.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import uvloop

from headrace.loops import Stop
from headrace.settings import Settings

T = TypeVar("T")


def read_settings() -> Settings:
    """Return the settings of this process."""
    return Settings.from_environment(os.environ)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end."""
    return uvloop.run(main)


def run_until_stopped(main: Callable[[Stop], Awaitable[None]]) -> None:
    """Run a process until it ends or a signal stops it."""

    async def stoppable() -> None:
        stop = Stop()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await main(stop)

    run(stoppable())
