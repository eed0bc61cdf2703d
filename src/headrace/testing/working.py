"""A worker, a relay and consumers within a process that is not theirs.

Owns their start and their end in order. The worker is run by Taskiq's own receiver, as `taskiq worker` runs it. Never
leave one running: whatever the test did, its end is waited for, with a bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy import text
from taskiq.receiver import Receiver

from headrace.loops import Stop
from headrace.resources import Resources, build_broker
from headrace.tasks.broker import RecordBroker

_PAUSE_SECONDS: Final = 0.01
_REGISTERED: Final = text("SELECT EXISTS (SELECT FROM processes WHERE id = :id)")


@asynccontextmanager
async def running(
    part: Callable[[Stop], Coroutine[Any, Any, None]], seconds: float, stop: Stop | None = None
) -> AsyncIterator[None]:
    """Run what takes a stop flag for the block, and let it end in order, within so many seconds."""
    stop = stop or Stop()
    task = asyncio.create_task(part(stop))
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(seconds):
            await task


@asynccontextmanager
async def working(resources: Resources, *, at_once: int | None = None, seconds: float) -> AsyncIterator[RecordBroker]:
    """Run a worker for the block; it starts `at_once` jobs of those it has won, and ends within so many seconds."""
    registry, settings = resources.registry, resources.settings
    bound = {name: task.broker for name, task in registry.tasks.items()}
    broker = build_broker(settings, registry, guest=True)
    for name, task in registry.tasks.items():
        task.broker = bound[name]  # the test goes on to send through its own, as an API process does
    broker.is_worker_process = True
    finish = asyncio.Event()
    receiver = Receiver(broker, max_async_tasks=at_once or settings.worker_concurrency)
    listening = asyncio.create_task(receiver.listen(finish))
    try:
        await _registered(resources, broker, listening, seconds)
        yield broker
    finally:
        finish.set()
        async with asyncio.timeout(seconds * 2):
            await listening
            await broker.shutdown()


async def _registered(
    resources: Resources, broker: RecordBroker, listening: asyncio.Task[None], seconds: float
) -> None:
    """Wait until the worker is on record: a job that comes before would wait a moment longer."""
    async with asyncio.timeout(seconds):
        while True:
            async with resources.record.engine.connect() as connection:
                if (await connection.execute(_REGISTERED, {"id": broker.worker.identity.id})).scalar_one():
                    return
            if listening.done():
                listening.result()
            await asyncio.sleep(_PAUSE_SECONDS)
