"""A worker process: everything that Taskiq's worker needs beside its receiver.

Owns the start and the end of a worker. It starts when PostgreSQL answers with a fitting schema, and says that it is
alive from a thread of its own. At the end it first claims nothing more, lets running jobs finish for
`shutdown_seconds`, then hands back the rest: a shutdown burns no attempt. It never waits for ever, neither for a task
that ignores its cancellation nor for PostgreSQL. A background part that fails ends the process: its jobs run elsewhere
when the lease runs out, which is better than a worker that looks alive and does nothing.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, nullcontext
from multiprocessing import parent_process
from typing import Any

import structlog

from headrace.database.ready import wait_until_ready
from headrace.database.record import Bell, Record, open_record
from headrace.database.sessions import session_name
from headrace.jobs.queues import queue_names, register_queues
from headrace.loops import Pace, Stop, repeat
from headrace.presence import Identity, Presence
from headrace.providers import Factory, open_providers
from headrace.release import release_of
from headrace.settings import Settings
from headrace.streams.connection import open_commands
from headrace.tasks.attempt import Interruption
from headrace.tasks.belt import Belt, Delivery
from headrace.tasks.contract import Task
from headrace.tasks.execution import Execution
from headrace.tasks.hands import Hands
from headrace.tasks.outcome import handed_back
from headrace.tasks.places import Places
from headrace.tasks.queue_streams import QueueStreams
from headrace.tasks.reconcile import RECONCILE_PACE, Reconciliation
from headrace.tasks.reports import LIVE_PACE, RECORD_PACE
from headrace.tasks.settler import Settler
from headrace.tasks.signals import heeding_signals
from headrace.tasks.source import Source
from headrace.tasks.watch import WATCH_PACE, LoopWatch
from headrace.telemetry.logs import configure_logging
from headrace.telemetry.setup import configure

logger = structlog.get_logger(__name__)

_QUEUES = Pace(interval_seconds=1.0)
_LOOK_SECONDS = 1.0
_GRACE_SECONDS = 3.0
"""How long interrupted runs may take to end, and their outcomes to be recorded."""
_SPARE_CONNECTIONS = 2
"""Connections of the pool that sessions leave to reads and progress."""
_EXIT_FAILED = 70


class Worker:
    """The parts of a worker process; `start` opens them, `stop` ends them.

    A `guest` is in somebody else's process, such as a test's: it leaves logging, signals, the garbage collector and the
    life of that process alone.
    """

    def __init__(
        self,
        settings: Settings,
        tasks: Mapping[str, Task[Any, Any]],
        *,
        providers: Mapping[type[Any], Factory],
        migrations: Sequence[str],
        guest: bool = False,
    ) -> None:
        self._settings = settings
        self._guest = guest
        self.source: Source | None = None
        """Where jobs come from, said before the start; with one there is no Redis, and progress is not told live."""
        self._tasks = tasks
        self._providers = providers
        self._migrations = migrations
        self._chosen = _names(settings.queues)
        self._stack = AsyncExitStack()
        self._stop = Stop()
        self._parts: list[asyncio.Task[None]] = []
        self.identity = Identity(
            role="worker",
            lease_seconds=settings.lease_seconds,
            queues=self._chosen,
            tasks=sorted(tasks),
            slots=settings.worker_concurrency,
        )
        self.settler = Settler(settings.database_url, release=release_of(settings))
        self._presence = Presence(settings.database_url, self.identity)
        self.belt: Belt
        self.execution: Execution
        self._hands: Hands

    async def start(self) -> Record:
        """Open the stores, register, and begin to read; return the record."""
        try:
            return await self._start()
        except BaseException:
            await self._stack.aclose()
            raise

    async def _start(self) -> Record:
        if not self._guest:
            self._take_over()
        record = await self._stack.enter_async_context(
            open_record(self._settings, session_name=session_name(self.identity.id))
        )
        with nullcontext() if self._guest else heeding_signals(self._stop):
            if not await wait_until_ready(record.engine, self._migrations, self._stop):
                raise SystemExit
        providers = await self._stack.enter_async_context(open_providers(self._providers, self._settings))
        sessions = max(1, self._settings.database_pool_size - _SPARE_CONNECTIONS)
        places = Places(self._settings.worker_threads, self._settings.worker_processes)
        self._stack.push_async_callback(places.close)
        self.execution = Execution(self._tasks, record, providers, sessions=sessions, places=places)
        url, identity = self._settings.redis_url, self.identity
        source = self.source or QueueStreams(url, str(identity.id))
        self.belt = Belt(source, self._settings.database_url, worker_id=identity.id, slots=identity.slots)
        self._stack.push_async_callback(self.belt.close)
        self._hands = Hands(self.execution, self.settler, self.belt)
        await register_queues(record.engine, self._chosen or {task.policy.queue for task in self._tasks.values()})
        await self._serve_queues(record)
        self._stack.push_async_callback(self._presence.stop)
        await self._presence.start()
        self._run_parts(record)
        if self.source is None:
            self._tell_live()
        if not self._guest:
            gc.freeze()  # what start-up made stays: to look through it again and again took a twentieth of the time
        logger.info("worker_started", id=str(self.identity.id), queues=self._chosen or "all")
        return record

    def _take_over(self) -> None:
        """Be the process: its logs and traces are a worker's."""
        configure_logging(self._settings, "worker")
        # two lines a job say nothing that the record lacks
        logging.getLogger("taskiq.receiver").setLevel(logging.WARNING)
        self._stack.callback(configure("worker").shutdown)

    def _run_parts(self, record: Record) -> None:
        url = self._settings.database_url
        reconciliation = Reconciliation(url, self.identity, belt=self.belt, settler=self.settler)
        self._stack.callback(reconciliation.close)
        self._run("settle", self.settler.run(lambda: record.wakeup.ring(Bell.ENDINGS)))
        self._run("read", self.belt.read())
        self._run("acknowledge", self.belt.acknowledge())
        self._run("queues", repeat("queues", lambda: self._serve_queues(record), _QUEUES, self._stop))
        # the end of a part whose flag is never set is its cancellation: runs are watched until the last one has ended
        last = Stop()
        reports = self.execution.reports
        self._run("reconcile", repeat("reconcile", lambda: reconciliation.look(self.execution), RECONCILE_PACE, last))
        self._run("progress", repeat("progress", reports.record_once, RECORD_PACE, last))
        watch = LoopWatch(self.execution, record)
        watch.start()
        self._stack.callback(watch.stop)
        self._run("watch", repeat("watch", watch.record_once, WATCH_PACE, last))
        self._run("patience", self._lose_patience())
        self._run("orphan", self._end_with_parent())

    def _tell_live(self) -> None:
        live = open_commands(self._settings.redis_url, connections=1)
        self._stack.push_async_callback(live.aclose)
        publish = self.execution.reports.publish_once
        self._run("live", repeat("live", lambda: publish(live), LIVE_PACE, Stop()))

    async def carry(self, deliveries: Sequence[Delivery]) -> None:
        """Run and settle what was won together."""
        await self._hands.carry(deliveries)

    def quiet(self) -> None:
        """Claim nothing more; what runs goes on."""
        self.belt.stop()
        self._presence.retire()
        self._stop.set()

    async def stop(self) -> None:
        """Hand back what has not started, end every part, close the stores."""
        try:
            if self._parts:
                self.quiet()
                await self._hand_back()
        finally:
            await self._end_parts()
            await self._stack.aclose()

    async def _end_parts(self) -> None:
        if self._parts:
            self.belt.finish()
            for part in self._parts:
                part.cancel()
            await asyncio.wait(self._parts, timeout=_GRACE_SECONDS)
            self._parts.clear()

    async def _hand_back(self) -> None:
        await next(part for part in self._parts if part.get_name() == "read")  # it may win one batch more
        unstarted = self.belt.unstarted()
        await asyncio.gather(*(self.settler.settle(handed_back(claim)) for claim in unstarted))

    async def _serve_queues(self, record: Record) -> None:
        self.belt.serve(self._chosen or await queue_names(record.engine))

    async def _lose_patience(self) -> None:
        """After the stop was asked for, let running attempts finish for a while, then hand them back; then give up."""
        await self._stop.wait()
        await asyncio.sleep(self._settings.shutdown_seconds)
        self.execution.interrupt(self.execution.running(), Interruption.SHUTDOWN)
        await asyncio.sleep(_GRACE_SECONDS)
        self.settler.abandon()
        if stubborn := self.execution.running():
            logger.critical("runs_do_not_end", count=len(stubborn), first=str(min(stubborn)[0]))
            if not self._guest:
                os._exit(_EXIT_FAILED)

    async def _end_with_parent(self) -> None:
        """Ask for the end, as a signal would, when Taskiq's manager has died: nobody else will."""
        manager = parent_process()
        while manager is not None and manager.is_alive():
            if await self._stop.wait(_LOOK_SECONDS):
                return
        if manager is not None:
            logger.warning("manager_died")
            signal.raise_signal(signal.SIGTERM)

    def _run(self, name: str, part: Any) -> None:  # noqa: ANN401 - any coroutine
        task = asyncio.create_task(part, name=name)
        task.add_done_callback(_tell_failure if self._guest else _fail_stop)
        self._parts.append(task)


def _names(listed: str | None) -> list[str] | None:
    names = [name.strip() for name in (listed or "").split(",")]
    return [name for name in names if name] or None


def _fail_stop(part: asyncio.Task[None]) -> None:
    """End the process when a part of it has failed."""
    if _tell_failure(part):
        os._exit(_EXIT_FAILED)


def _tell_failure(part: asyncio.Task[None]) -> bool:
    """Log why a part has failed; tell whether it has."""
    if part.cancelled() or (error := part.exception()) is None:
        return False
    logger.critical("worker_part_failed", part=part.get_name(), exc_info=error)
    return True
