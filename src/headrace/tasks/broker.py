"""Taskiq's broker, on the record: what `taskiq worker workers.tasks:broker` runs, and what `task.kiq(…)` sends through.

Owns the joints between Taskiq and Headrace. `kick` writes a job to the record; `listen` yields jobs that this worker
has won; the formatter hands them through Taskiq without validating them again; the result backend reads results from
the record, where each attempt was settled when it ended. Of taskiq-redis's RedisStreamBroker only the type is kept:
each of its faults (never reclaims on an idle queue, runs long tasks twice, loses prefetched jobs, dies with Redis) lies
in the methods that are replaced here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import msgspec
from pydantic import ConfigDict
from taskiq import AckableMessage, BrokerMessage, TaskiqMessage, TaskiqResult
from taskiq.abc.formatter import TaskiqFormatter
from taskiq.abc.result_backend import AsyncResultBackend
from taskiq.decor import AsyncTaskiqDecoratedTask
from taskiq_redis import RedisStreamBroker

from headrace.clock import new_id
from headrace.database.record import Record, open_record
from headrace.database.states import FINISHED, JobState
from headrace.errors import ConfigurationError
from headrace.jobs.call import Call, Options
from headrace.jobs.queries import job_by_id
from headrace.settings import Settings
from headrace.tasks.belt import Delivery
from headrace.tasks.contract import Task
from headrace.tasks.messages import ENTRY, task_message, won_message
from headrace.tasks.worker import Worker
from headrace.transaction import transaction


class Kicked(BrokerMessage):
    """A `kiq` on its way to the record."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    call: Call
    origin: TaskiqMessage
    """What Taskiq will take the job's id from when it is on record."""


class RecordFormatter(TaskiqFormatter):
    """Carries calls towards the record, and claims towards Taskiq's receiver."""

    def __init__(self, tasks: Mapping[str, Task[Any, Any]]) -> None:
        self._tasks = tasks

    def dumps(self, message: TaskiqMessage) -> BrokerMessage:
        """Encode what `kiq` sends: a call of a known task."""
        task = self._tasks.get(message.task_name)
        if task is None:
            error = f"the task {message.task_name} is not declared by any loaded application"
            raise ConfigurationError(error)
        options = msgspec.convert(message.labels, Options, strict=False)
        return Kicked.model_construct(
            task_id=message.task_id,
            task_name=message.task_name,
            message=b"",
            labels=message.labels,
            call=task.call_with(options, tuple(message.args), message.kwargs),
            origin=message,
        )

    def loads(self, message: bytes) -> TaskiqMessage:
        """Wrap the deliveries that `listen` yielded as they are; they were decoded when they were read."""
        return task_message(cast("list[Delivery]", message))


class RecordResults(AsyncResultBackend[Any]):
    """Reads results from the record, where the worker has put them."""

    def __init__(self, broker: RecordBroker) -> None:
        self._broker = broker

    async def set_result(self, task_id: str, result: TaskiqResult[Any]) -> None:
        """Do nothing: each job of the message was settled when it ended."""

    async def is_result_ready(self, task_id: str) -> bool:
        """Tell whether the job is finished."""
        return (await job_by_id(self._broker.record, UUID(task_id))).state in FINISHED

    async def get_result(self, task_id: str, with_logs: bool = False) -> TaskiqResult[Any]:  # noqa: FBT001, FBT002 - Taskiq's signature
        """Return what the job returned; `is_err` with the last error where it did not succeed."""
        del with_logs
        job = await job_by_id(self._broker.record, UUID(task_id))
        last = job.errors[-1] if job.errors else None
        reason = f"{last.type}: {last.message}" if last else f"the job is {job.state}"
        failed = job.state is not JobState.SUCCEEDED
        return TaskiqResult(
            is_err=failed,
            return_value=msgspec.json.decode(job.result),
            execution_time=_seconds_between(job.started_at, job.finished_at),
            error=RuntimeError(reason) if failed else None,
        )


def _seconds_between(begin: datetime | None, end: datetime | None) -> float:
    return (end - begin).total_seconds() if begin and end else 0.0


class RecordBroker(RedisStreamBroker):
    """The broker of Headrace; `bind` it to an open record, or let Taskiq's worker start it."""

    def __init__(self, settings: Settings, tasks: Mapping[str, Task[Any, Any]], worker: Worker) -> None:
        super().__init__("redis://")  # its own connections are never used: the belt has others
        self._settings = settings
        self._stack = AsyncExitStack()
        self.worker = worker
        self._bound: Record | None = None
        self._tasks = tasks
        self.formatter = RecordFormatter(tasks)
        self.with_result_backend(RecordResults(self))
        self.with_id_generator(lambda: str(new_id()))

        async def carry(deliveries: Any) -> None:  # noqa: ANN401 - Taskiq would try to parse any other annotation
            await worker.carry(deliveries)

        self._entry = AsyncTaskiqDecoratedTask(self, ENTRY, carry, labels={})
        for task in tasks.values():
            task.broker = self

    @property
    def record(self) -> Record:
        """The record that this broker writes to.

        Raises:
            ConfigurationError: nothing is open yet.

        """
        if self._bound is None:
            message = "the broker is not started: call `await broker.startup()`, or enqueue in a transaction"
            raise ConfigurationError(message)
        return self._bound

    def bind(self, record: Record) -> None:
        """Write to a record that somebody else has opened and will close."""
        self._bound = record

    def find_task(self, task_name: str) -> AsyncTaskiqDecoratedTask[Any, Any] | None:
        """Return the one entry by which every claim is executed: Taskiq drops what it does not find."""
        return self._entry if task_name == ENTRY else None

    def get_all_tasks(self) -> dict[str, AsyncTaskiqDecoratedTask[Any, Any]]:
        """Return the entry alone, so that the receiver inspects no signature and injects nothing."""
        return {ENTRY: self._entry}

    async def startup(self) -> None:
        """Open the record where nobody has bound one; in a worker process, start reading."""
        if self.is_worker_process:
            self.bind(await self.worker.start())
        elif self._bound is None:
            self.bind(await self._stack.enter_async_context(open_record(self._settings)))
        await self.result_backend.startup()

    async def shutdown(self) -> None:
        """Hand back what has not started, and close what `startup` has opened."""
        await self.worker.stop()
        await self._stack.aclose()
        await self.connection_pool.disconnect()

    async def kick(self, message: BrokerMessage) -> None:
        """Write the job to the record, in a transaction of its own.

        Where another job holds the unique key, the caller gets that one to wait for.

        Raises:
            ConfigurationError: the message comes from another formatter, or the broker is not started.

        """
        if not isinstance(message, Kicked):
            error = "only calls of declared tasks go through the record"
            raise ConfigurationError(error)
        async with transaction(self.record) as tx:
            (job_id,) = await tx.enqueue_calls([message.call], ids=[UUID(message.task_id)])
        message.origin.task_id = str(job_id)

    async def listen(self) -> AsyncGenerator[AckableMessage, None]:
        """Yield the jobs that this worker has won, until Taskiq closes the generator at shutdown."""
        try:
            while True:
                yield won_message(await self.worker.belt.next())
        finally:
            self.worker.quiet()
