"""Signals that come while a worker starts.

Owns the handlers for the time of the start: Taskiq has installed its own, and looks at the flag they set only when the
start is over. Never leave a handler behind.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from headrace.loops import Stop


@contextmanager
def heeding_signals(stop: Stop) -> Iterator[None]:
    """Set `stop` at a signal, besides what Taskiq does: it looks at its own flag only after the start."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def heed(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stop.set)
        if callable(handler := before[signal.Signals(number)]):
            handler(number, frame)

    for number in before:
        signal.signal(number, heed)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
