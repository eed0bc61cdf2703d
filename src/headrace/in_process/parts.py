"""The parts of a bus within one process, led by whoever has the relay's lease.

Owns their list. It is what relay, consumers, workers and the clock do in a deployment, by the same code, over lanes and
queues in memory; so of several processes on one record one is at work, the others stand by and take over when it dies,
and a real relay counts as one of them. Consumer and worker end before the rest does, because they still need it. Never
run one of these parts without the lease.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import msgspec

from headrace.application import Registry
from headrace.cron.fire import fire_due
from headrace.cron.register import register_schedules
from headrace.cron.upkeep import forget, make_partitions, prune
from headrace.in_process.queues import HandingOver, InProcessQueues
from headrace.loops import Pace, Stop, repeat
from headrace.relay.belt_upkeep import return_absent
from headrace.relay.connection import connected
from headrace.relay.following import following
from headrace.relay.leader import Leadership, Part
from headrace.relay.moving import move_with
from headrace.relay.releasing import keep_jobs, release_with
from headrace.relay.sessions import end_sessions
from headrace.resources import Resources
from headrace.streams.in_process import InProcessTransport
from headrace.streams.transport import Transport
from headrace.subscribers.process import consume
from headrace.tasks.attempt import Interruption
from headrace.tasks.worker import Worker

_REBEGIN: Final = Pace(0.0, first_backoff_seconds=0.05, last_backoff_seconds=1.0)
_UPKEEP: Final = Pace(0.5, first_backoff_seconds=0.1, last_backoff_seconds=1.0)
_TICK: Final = Pace(0.25)
_TIDYING: Final = Pace(600.0, last_backoff_seconds=60.0)
_GRACE_SECONDS: Final = 3.0


class Attendants:
    """What is ended in order, while the rest still runs."""

    def __init__(self) -> None:
        self._ending = Stop()
        self._at_work: set[asyncio.Future[None]] = set()

    def part(self, work: Callable[[Stop], Awaitable[None]]) -> Part:
        """Return a part that works until the end is asked for, and then waits for the others."""

        async def run(leadership: Leadership) -> None:
            done = asyncio.get_running_loop().create_future()
            self._at_work.add(done)
            try:
                await work(self._ending)
            finally:
                done.set_result(None)
                self._at_work.discard(done)
            await leadership.stop.wait()

        return run

    async def end(self, patience_seconds: float) -> None:
        """Ask for the end, and wait for it."""
        self._ending.set()
        if self._at_work:
            await asyncio.wait(set(self._at_work), timeout=patience_seconds)


class InProcessParts:
    """What one process does when it leads."""

    def __init__(self, resources: Resources, attendants: Attendants) -> None:
        self._settings = resources.settings
        self._registry = resources.registry
        self._attendants = attendants
        self._transport = InProcessTransport()
        self._queues = InProcessQueues()

    def parts(self) -> Sequence[Part]:
        """Return all of them."""
        attended = [self._attendants.part(self._consume), self._attendants.part(self._work)]
        registry = self._registry
        return (
            self._move, self._release, self._return_lost, keep_jobs, end_sessions, following(registry.tasks),
            lambda leadership: _tick(leadership, registry), _tidy, *attended,
        )  # fmt: skip

    async def _move(self, leadership: Leadership) -> None:
        writer = self._transport.writer()
        capacity = min(leadership.settings.lane_capacity, self._transport.capacity)
        bounded = dataclasses.replace(
            leadership, settings=msgspec.structs.replace(leadership.settings, lane_capacity=capacity)
        )
        await repeat("move_events", lambda: move_with(bounded, writer), _REBEGIN, leadership.stop)

    async def _release(self, leadership: Leadership) -> None:
        self._queues.clear()
        await release_with(leadership, lambda: HandingOver(leadership.redis, self._queues))

    async def _return_lost(self, leadership: Leadership) -> None:
        async def run_once() -> None:
            async with connected(leadership) as connection:
                while not await leadership.stop.wait(_UPKEEP.interval_seconds):
                    await return_absent(connection, self._queues.waiting_on)

        await repeat("return_lost", run_once, _REBEGIN, leadership.stop)

    async def _consume(self, ending: Stop) -> None:
        await consume(self._settings, self._registry, ending, opening=self._opening)

    async def _work(self, ending: Stop) -> None:
        registry = self._registry
        worker = Worker(
            self._settings,
            registry.names,
            providers=registry.providers,
            migrations=registry.migrations,
            guest=True,
        )
        worker.source = self._queues
        try:
            await worker.start()
            await _carry(worker, ending)
        finally:
            await worker.stop()

    def _opening(self, _redis_url: str) -> AbstractAsyncContextManager[Transport]:
        return _lent(self._transport)


@asynccontextmanager
async def _lent(transport: Transport) -> AsyncIterator[Transport]:
    yield transport


async def _carry(worker: Worker, ending: Stop) -> None:
    """Run what the worker wins until the end is asked for; what runs then may finish."""
    runs: set[asyncio.Task[None]] = set()

    async def win() -> None:
        while True:
            run = asyncio.create_task(worker.carry(await worker.belt.next()))
            runs.add(run)
            run.add_done_callback(runs.discard)

    winning = asyncio.create_task(win())
    try:
        await ending.wait()
        worker.quiet()
        winning.cancel()
        if runs:
            await asyncio.wait(runs)  # the worker loses its patience after `shutdown_seconds`
    finally:
        winning.cancel()
        worker.execution.interrupt(worker.execution.running(), Interruption.SHUTDOWN)
        if runs:
            await asyncio.wait(runs, timeout=_GRACE_SECONDS)


async def _tick(leadership: Leadership, registry: Registry) -> None:
    """Fire schedules, as the clock does."""
    registered = False

    async def run_once() -> None:
        nonlocal registered
        if not registered:
            await register_schedules(leadership.record, registry)
            registered = True
        await fire_due(leadership.record, registry)

    await repeat("tick", run_once, _TICK, leadership.stop)


async def _tidy(leadership: Leadership) -> None:
    """Make partitions ahead of time, and delete what is older than the retention."""

    async def run_once() -> None:
        await make_partitions(leadership.record)
        await forget(leadership.record)
        await prune(leadership.record, leadership.settings)

    await repeat("tidy", run_once, _TIDYING, leadership.stop)
