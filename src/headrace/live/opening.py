"""The live tails of one process, from its start to its end.

Owns the parts of a hub that repeat: looking at the record, hearing Redis, keeping connections alive. Each outlives
every fault of a store. They cost nothing while nobody listens.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from headrace.events.reading import Reading
from headrace.live.hub import LOOK_SECONDS, TURNS, Hub
from headrace.live.log import open_log
from headrace.loops import Pace, Stop, repeat
from headrace.settings import Settings
from headrace.streams.connection import open_commands

KEEP_ALIVE_SECONDS: Final = 15.0
"""Between two signs of life on a connection where nothing comes."""

_LOOK: Final = Pace(LOOK_SECONDS, last_backoff_seconds=1.0)
_HEAR: Final = Pace(LOOK_SECONDS, last_backoff_seconds=2.0)


@asynccontextmanager
async def open_hub(
    settings: Settings, reading: Reading, *, keep_alive_seconds: float = KEEP_ALIVE_SECONDS
) -> AsyncIterator[Hub]:
    """Open the hub of a process for the block."""
    redis = open_commands(settings.redis_url, connections=2)
    stop = Stop()
    async with open_log(settings.database_url) as log:
        hub = Hub(log, reading, most=settings.live_listeners)
        steps: dict[str, tuple[Callable[[], Awaitable[None]], Pace]] = {
            "live_look": (hub.look_once, _LOOK),
            "live_hear": (lambda: hub.hear_once(redis), _HEAR),
            "live_beat": (hub.beat_once, Pace(keep_alive_seconds / TURNS)),
        }
        parts = [asyncio.create_task(repeat(name, step, pace, stop)) for name, (step, pace) in steps.items()]
        try:
            yield hub
        finally:
            stop.set()  # a store's client that is just connecting can swallow the cancellation
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            await redis.aclose()
