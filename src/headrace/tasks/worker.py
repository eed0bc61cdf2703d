"""A worker process: everything that Taskiq's worker needs beside its receiver.

Owns the start and the end of a worker. It starts when PostgreSQL answers with a fitting schema, and says that it is alive
from a thread of its own. At the end it first claims nothing more, lets running jobs finish for `shutdown_seconds`, then
hands back the rest: a shutdown burns no attempt. A background part that fails ends the process: its jobs run elsewhere
when the lease runs out, which is better than a worker that looks alive and does nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

import structlog

from headrace.database.ready import wait_until_ready
from headrace.database.record import Record, open_record
from headrace.jobs.model import Claim, Outcome
from headrace.jobs.queues import queue_names, register_queues
from headrace.loops import Pace, Stop, repeat
from headrace.presence import Identity, Presence
from headrace.providers import Factory, open_providers
from headrace.settings import Settings
from headrace.tasks.belt import Belt
from headrace.tasks.contract import Task
from headrace.tasks.execution import Execution, Interruption
from headrace.tasks.outcome import handed_back
from headrace.tasks.settler import Settler
from headrace.telemetry.logs import configure_logging
from headrace.telemetry.setup import configure

logger = structlog.get_logger(__name__)

_QUEUES = Pace(interval_seconds=1.0)
_EXIT_FAILED = 70


class Worker:
    """The parts of a worker process; `start` opens them, `stop` ends them."""

    def __init__(
        self,
        settings: Settings,
        tasks: Mapping[str, Task[Any, Any]],
        *,
        providers: Mapping[type[Any], Factory],
        migrations: Sequence[str],
    ) -> None:
        self._settings = settings
        self._tasks = tasks
        self._providers = providers
        self._migrations = migrations
        self._chosen = None if settings.queues is None else [name.strip() for name in settings.queues.split(",")]
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
        self.settler = Settler(settings.database_url)
        self.belt: Belt
        self.execution: Execution

    async def start(self) -> Record:
        """Open the stores, register, and begin to read; return the record."""
        configure_logging(self._settings, "worker")
        logging.getLogger("taskiq.receiver").setLevel(logging.WARNING)  # two lines a job say nothing that the record lacks
        telemetry = configure("worker")
        self._stack.callback(telemetry.shutdown)
        record = await self._stack.enter_async_context(open_record(self._settings))
        await wait_until_ready(record.engine, self._migrations)
        providers = await self._stack.enter_async_context(open_providers(self._providers, self._settings))
        self.execution = Execution(self._tasks, record, providers)
        self.belt = Belt(
            self._settings.redis_url, self._settings.database_url, worker_id=self.identity.id, slots=self.identity.slots
        )
        await register_queues(record.engine, self._chosen or {task.policy.queue for task in self._tasks.values()})
        await self._serve_queues(record)
        presence = Presence(
            self._settings.database_url,
            self.identity,
            on_lost=lambda: self.execution.interrupt(None, Interruption.LOST),
            on_cancelled=lambda jobs: self.execution.interrupt(jobs, Interruption.REQUESTED),
        )
        await presence.start()
        self._stack.push_async_callback(presence.stop)
        self._run("settle", self.settler.run())
        self._run("read", self.belt.read())
        self._run("acknowledge", self.belt.acknowledge())
        self._run("queues", repeat("queues", lambda: self._serve_queues(record), _QUEUES, self._stop))
        self._run("patience", self._lose_patience())
        logger.info("worker_started", id=str(self.identity.id), queues=self._chosen or "all")
        return record

    async def execute(self, claim: Claim) -> Outcome | None:
        """Run one attempt."""
        return await self.execution.execute(claim)

    def quiet(self) -> None:
        """Claim nothing more; what runs goes on."""
        self.belt.stop()
        self._stop.set()

    async def stop(self) -> None:
        """Hand back what has not started, end every part, close the stores."""
        if not self._parts:
            return
        self.quiet()
        for claim in self.belt.unstarted():
            await self.settler.settle(handed_back(claim))
        read = next(part for part in self._parts if part.get_name() == "read")
        await read
        for part in self._parts:
            part.cancel()
        for part in self._parts:
            with suppress(asyncio.CancelledError):
                await part
        await self.belt.close()
        await self._stack.aclose()

    async def _serve_queues(self, record: Record) -> None:
        self.belt.serve(self._chosen or await queue_names(record.engine))

    async def _lose_patience(self) -> None:
        """After the stop was asked for, let running attempts finish for a while, then hand them back."""
        await self._stop.wait()
        await asyncio.sleep(self._settings.shutdown_seconds)
        self.execution.interrupt(None, Interruption.SHUTDOWN)

    def _run(self, name: str, part: Any) -> None:  # noqa: ANN401 - any coroutine
        task = asyncio.create_task(part, name=name)
        task.add_done_callback(_fail_stop)
        self._parts.append(task)


def _fail_stop(part: asyncio.Task[None]) -> None:
    """End the process when a part of it has failed."""
    if not part.cancelled() and (error := part.exception()) is not None:
        logger.critical("worker_part_failed", part=part.get_name(), exc_info=error)
        os._exit(_EXIT_FAILED)
