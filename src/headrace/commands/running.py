"""Run a process of Headrace until it is told to stop.

Owns the event loop and the two signals: SIGTERM and SIGINT set the stop flag, and the process ends by itself.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

import uvloop

from headrace.loops import Stop


def run_until_stopped(process: Callable[[Stop], Awaitable[None]]) -> None:
    """Run `process` on a loop of its own; it is given the flag that the signals set."""
    uvloop.run(_run(process))


async def _run(process: Callable[[Stop], Awaitable[None]]) -> None:
    stop = Stop()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await process(stop)
