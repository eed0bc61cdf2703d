"""What a test does and asks, whichever way its jobs are run.

Owns the producer's side (`enqueue`, `publish`, `transaction`) and the questions to the record: which jobs there are,
with which arguments, how they ended, which events were published, what is left to do and why. Every answer comes from
the record, as it stands at that moment; nothing is remembered here. Never wait in an answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any, Final, ParamSpec, TypeVar, cast
from uuid import UUID

import msgspec
from sqlalchemy import text

from headrace.application import Registry
from headrace.database.record import Record
from headrace.database.states import JobState
from headrace.events.reading import Published, data_of
from headrace.events.registry import event_type_of
from headrace.jobs.call import Call, Enqueueable
from headrace.jobs.explain import explain_job
from headrace.jobs.queries import Job, job_by_id, jobs_by_ids
from headrace.resources import Resources
from headrace.settings import Settings
from headrace.tasks.contract import Task
from headrace.transaction import Transaction, transaction

P = ParamSpec("P")
E = TypeVar("E", bound=msgspec.Struct)

_JOBS: Final = text("""
    SELECT id FROM jobs
    WHERE (CAST(:task AS text) IS NULL OR task = :task)
      AND (CAST(:state AS text) IS NULL OR state = CAST(:state AS job_state))
    ORDER BY id
""")
_PUBLISHED: Final = text("SELECT type, version, data::text AS data FROM event_log WHERE type = :type ORDER BY id")
_UNFINISHED: Final = text("""
    SELECT id, task, state FROM jobs
    WHERE state NOT IN ('succeeded', 'dead', 'cancelled', 'expired') ORDER BY id LIMIT 20
""")
_WAITING: Final = text("""
    SELECT c.subscription, c.lane, lanes.head - c.position AS events, c.last_error, s.paused
    FROM checkpoints c JOIN lanes ON lanes.lane = c.lane JOIN subscriptions s ON s.name = c.subscription
    WHERE lanes.head > c.position ORDER BY c.subscription, c.lane
""")
_HELD: Final = text("""
    SELECT k.subscription, k.key, j.id AS job_id, j.state, count(*) AS events
    FROM held_keys k JOIN waiting_events w ON w.subscription = k.subscription AND w.key = k.key
    LEFT JOIN jobs j ON j.id = k.job_id
    GROUP BY k.subscription, k.key, j.id, j.state ORDER BY k.subscription, k.key LIMIT 20
""")
_UNPLACED: Final = text("SELECT count(*) FROM outbox")


class JobOutcome(msgspec.Struct, frozen=True):
    """How a job stands: `result` is its JSON value, `errors` one text per attempt that did not succeed."""

    state: JobState
    result: Any
    errors: list[str]
    attempt: int


class Left(msgspec.Struct, frozen=True):
    """Something that is not done, and why."""

    what: str
    why: str


class Observed:
    """A running Headrace, as a test sees it."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    @property
    def record(self) -> Record:
        """The record, for what an application does with it by itself."""
        return self._resources.record

    @property
    def settings(self) -> Settings:
        """What it runs with: the URLs of its stores, for clients of the application's own."""
        return self._resources.settings

    @property
    def registry(self) -> Registry:
        """All that the tested applications declare."""
        return self._resources.registry

    def at_its_time(self) -> AbstractContextManager[None]:
        """Let `headrace.clock.now` tell the test's time for the block; here it is the real one."""
        return nullcontext()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Open a transaction, as a request of the application's own would."""
        with self.at_its_time():
            async with transaction(self.record) as tx:
                yield tx

    async def enqueue(self, task: Enqueueable[P], *args: P.args, **kwargs: P.kwargs) -> UUID:
        """Enqueue a task with its arguments in a transaction of its own; return the job's id."""
        return (await self.enqueue_calls([task.call(*args, **kwargs)]))[0]

    async def enqueue_calls(self, calls: Sequence[Call]) -> list[UUID]:
        """Enqueue calls in one transaction; return the jobs' ids in the same order."""
        async with self.transaction() as tx:
            return await tx.enqueue_calls(calls)

    async def publish(self, *events: msgspec.Struct) -> None:
        """Publish events in one transaction."""
        async with self.transaction() as tx:
            for event in events:
                await tx.publish(event)

    async def job(self, job_id: UUID) -> Job:
        """Return a job.

        Raises:
            NotFoundError: there is none with this id.

        """
        return await job_by_id(self.record, job_id)

    async def jobs(self, task: Task[..., Any] | None = None, *, state: JobState | None = None) -> list[Job]:
        """Return the jobs there are, of one task and in one state where these are given, oldest first."""
        parameters = {"task": task and task.name, "state": state and state.value}
        async with self.record.engine.connect() as connection:
            found = list((await connection.execute(_JOBS, parameters)).scalars())
            return list(reversed(await jobs_by_ids(connection, found)))

    async def unfinished(self) -> list[UUID]:
        """Return the jobs that are not finished, oldest first; of many the first twenty."""
        async with self.record.engine.connect() as connection:
            return [row.id for row in await connection.execute(_UNFINISHED)]

    async def enqueued(self, task: Task[..., Any]) -> list[dict[str, Any]]:
        """Return the arguments of every job of a task, oldest first, in the types of its signature.

        Example:
            >>> assert await headrace.enqueued(greet) == [{"name": "Ada"}]

        """
        return [msgspec.structs.asdict(task.decoder.decode(bytes(job.args))) for job in await self.jobs(task)]

    async def published(self, event: type[E]) -> list[E]:
        """Return every event of a type, oldest first, read as the present version of it.

        Example:
            >>> assert await headrace.published(CustomerJoined) == [CustomerJoined(name="Ada")]

        """
        async with self.record.engine.connect() as connection:
            found = (await connection.execute(_PUBLISHED, {"type": event_type_of(event).type})).all()
        return [data_of(event, cast("Published", row)) for row in found]

    async def outcome(self, job: UUID | Job) -> JobOutcome:
        """Return how a job stands now."""
        found = await self.job(job.id if isinstance(job, Job) else job)
        errors = [f"{error.type}: {error.message}" for error in found.errors]
        return JobOutcome(found.state, msgspec.json.decode(found.result), errors, found.attempt)

    async def left(self) -> list[Left]:
        """Return what is not done, and why: the oldest twenty jobs, and the events that a subscription has not had."""
        async with self.record.engine.connect() as connection:
            jobs = (await connection.execute(_UNFINISHED)).all()
            waiting = (await connection.execute(_WAITING)).all()
            held = (await connection.execute(_HELD)).all()
            unplaced = (await connection.execute(_UNPLACED)).scalar_one()
        left = [Left(f"the job {row.id} of {row.task} is {row.state}", await self._why(row.id)) for row in jobs]
        for row in waiting:
            why = "the subscription is paused" if row.paused else row.last_error or "it has not come to them yet"
            left.append(Left(f"{row.subscription} has {row.events} events of lane {row.lane} before it", why))
        for row in held:
            why = f"the job {row.job_id} is {row.state}"
            left.append(Left(f"{row.events} events of the key {row.key} wait for {row.subscription}", why))
        if unplaced:
            left.append(Left(f"{unplaced} events are published", "the relay has not come to them yet"))
        return left

    async def _why(self, job_id: UUID) -> str:
        reasons = (await explain_job(self.record, job_id)).reasons
        return "; ".join(reason.message for reason in reasons) or "nothing is in its way"


class NotDrainedError(AssertionError):
    """Something is left to do that should have been done; the message lists it."""

    def __init__(self, reason: str, left: Sequence[Left]) -> None:
        lines = [f"  {one.what}: {one.why}" for one in left]
        super().__init__("\n".join([reason, *lines]))
        self.left = list(left)
