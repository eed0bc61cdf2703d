"""One thing after another: what relay, consumers and workers do at the same time, done here step by step.

Owns the order of a test's work: events get their positions, endings have their consequences, events go to their
subscriptions, and then one job is released, claimed, run and settled, until nothing is left. Each step is the function
that the process itself calls, on the real record; only Redis is missing between them, which decides nothing. Never do
two things at once: a test that passes must pass again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, cast
from uuid import UUID

import msgspec
from sqlalchemy import text

from headrace.clock import new_id
from headrace.database.driver import borrowed
from headrace.database.record import Record
from headrace.events.lane import events_after
from headrace.events.model import RecordedEvent
from headrace.jobs.claim import claim
from headrace.jobs.follow import CallOf, follow_endings
from headrace.jobs.model import Claim
from headrace.leases import Fence
from headrace.relay.dispatch import expire_jobs
from headrace.relay.following import hooks_of
from headrace.relay.leader import LEASE
from headrace.relay.position import place
from headrace.relay.rescue import rescue_once
from headrace.subscribers.checkpoints import mark_failing, move_within
from headrace.subscribers.contract import Kind, Subscription
from headrace.subscribers.deadlines import Worker
from headrace.subscribers.failures import become_job, become_job_in_front
from headrace.subscribers.handling import Handled, Handling
from headrace.subscribers.held_keys import no_longer_waiting
from headrace.subscribers.inbox import enter
from headrace.subscribers.listening import wanted_by
from headrace.subscribers.projecting import apply_batch
from headrace.tasks.contract import Task
from headrace.tasks.execution import Execution
from headrace.tasks.settler import Settler
from headrace.testing.faults import Crash
from headrace.testing.held import next_open, waits_behind
from headrace.testing.release import release
from headrace.transaction import transaction

_BATCH: Final = 500
_PROJECTION_PAUSE: Final = timedelta(seconds=1)
"""How long a projection that failed waits for its next try."""
_EVERY_SESSION: Final = -1e9
"""As `lease_seconds` of a rescue: it need not wait for a lease, because nobody else is there."""

_LEAD: Final = text("INSERT INTO leases (name, holder, epoch, expires_at) VALUES (:name, :holder, 1, 'infinity')")
_WORK: Final = text("""
    INSERT INTO processes (id, role, host, pid, tasks, slots, expires_at)
    VALUES (:id, 'worker', 'testing', 0, :tasks, 1, 'infinity')
""")
_DIE: Final = text("UPDATE processes SET expires_at = '-infinity' WHERE id = :id")

_WAITING: Final = """
    SELECT c.subscription, c.lane, c.position
    FROM checkpoints c JOIN lanes ON lanes.lane = c.lane JOIN subscriptions s ON s.name = c.subscription
    WHERE lanes.head > c.position AND NOT s.paused ORDER BY c.subscription, c.lane
"""


class Waiting(msgspec.Struct, frozen=True):
    """A lane with events that a subscription has not had."""

    subscription: str
    lane: int
    position: int


class Steps:
    """The steps; `begin` first."""

    def __init__(
        self,
        record: Record,
        subscriptions: Mapping[str, Subscription],
        handlings: Mapping[str, Handling],
        *,
        execution: Execution,
        settler: Settler,
    ) -> None:
        self._record = record
        self._subscriptions = subscriptions
        self._handlings = handlings
        self._execution = execution
        self._settler = settler
        self._fence = Fence(LEASE, new_id(), 1)
        self._worker_id = new_id()
        self._tasks: Sequence[str] = ()
        self._hooks: Mapping[str, CallOf] = {}
        self.paused_until: dict[Waiting, datetime] = {}
        """Lanes of projections that failed."""

    async def begin(self, tasks: Mapping[str, Task[Any, Any]]) -> None:
        """Put a relay and a worker for these tasks on record."""
        self._tasks = sorted(tasks)
        self._hooks = hooks_of(tasks)
        async with self._record.engine.begin() as connection:
            await connection.execute(_LEAD, {"name": LEASE, "holder": self._fence.holder})
        await self._be_worker(new_id())

    async def run_once(self, now: datetime) -> str | None:
        """Do one thing and say what: the name of the task or subscription; None where nothing is to do."""
        async with borrowed(self._record.engine) as connection:
            while await place(connection, self._fence):
                pass
            while await follow_endings(connection, self._hooks):
                pass
        return await self._deliver_waiting() or await self._deliver(now) or await self._work()

    async def _deliver_waiting(self) -> str | None:
        """Deliver an event whose key was held and is not blocked any more."""
        found = await next_open(self._record)
        if found is None or found[0] not in self._subscriptions:
            return None
        name, event = found
        if await self._handle(self._subscriptions[name], event):
            async with borrowed(self._record.engine) as connection:
                await no_longer_waiting(connection, name, [event.id])
        return name

    async def _deliver(self, now: datetime) -> str | None:
        async with borrowed(self._record.engine) as connection:
            rows = await connection.fetch(_WAITING)
        for waiting in (Waiting(*row) for row in rows):
            subscription = self._subscriptions.get(waiting.subscription)
            if subscription is not None and self.paused_until.get(waiting, now) <= now:
                await self._deliver_lane(subscription, waiting, now)
                return subscription.name
        return None

    async def _deliver_lane(self, subscription: Subscription, waiting: Waiting, now: datetime) -> None:
        limit = _BATCH if subscription.kind is Kind.PROJECTION else 1
        async with borrowed(self._record.engine) as connection:
            found = await events_after(connection, waiting.lane, waiting.position, limit=limit)
        asked = wanted_by(subscription)
        wanted = [(at, event if event and asked.means(event) else None) for at, event in found]
        if subscription.kind is Kind.PROJECTION:
            await self._project(subscription, waiting, wanted, now)
            return
        position, event = wanted[0]
        waits = event is not None and await waits_behind(self._record, subscription.name, event)
        if event is None or waits or await self._handle(subscription, event):
            async with transaction(self._record) as tx:
                await move_within(tx, subscription.name, waiting.lane, expected=waiting.position, position=position)

    async def _handle(self, subscription: Subscription, event: RecordedEvent) -> bool:
        """Handle an event, or make its job; False where the process crashed."""
        me = cast("Worker", asyncio.current_task())
        try:
            outcome = await self._handlings[subscription.name].attempt(event, me)
        except Crash:
            return False
        if outcome is Handled.TO_ENTER:
            async with borrowed(self._record.engine) as connection:
                await enter(connection, subscription.name, [event.id])
        elif not isinstance(outcome, Handled) and subscription.policy.ordered:
            await become_job_in_front(self._record, subscription, event, outcome, fence=None)
        elif not isinstance(outcome, Handled):
            await become_job(self._record, subscription, event, outcome)
        return True

    async def _project(
        self,
        subscription: Subscription,
        waiting: Waiting,
        batch: Sequence[tuple[int, RecordedEvent | None]],
        now: datetime,
    ) -> None:
        try:
            await apply_batch(self._record, subscription, waiting.lane, expected=waiting.position, batch=batch)
        except Crash:
            return
        except (Exception, SystemExit, BaseExceptionGroup) as error:  # noqa: BLE001 - failure table: it waits, visibly
            self.paused_until[waiting] = now + _PROJECTION_PAUSE
            async with borrowed(self._record.engine) as connection:
                await mark_failing(connection, subscription.name, waiting.lane, error=repr(error))

    async def _work(self) -> str | None:
        async with borrowed(self._record.engine) as connection:
            await expire_jobs(connection)
            released = await release(connection)
            won = await claim(connection, released, self._worker_id) if released else []
        for one in won:
            await self._run(one)
        return won[0].task if won else None

    async def _run(self, one: Claim) -> None:
        try:
            outcome = await self._execution.execute(one)
        except Crash:
            await self._rescue()
            return
        if outcome is not None:
            await self._settler.settle(outcome)

    async def _rescue(self) -> None:
        """Be another worker, after the death of this one was noticed."""
        async with self._record.engine.begin() as connection:
            await connection.execute(_DIE, {"id": self._worker_id})
        await rescue_once(self._record, lease_seconds=_EVERY_SESSION)
        await self._be_worker(new_id())

    async def _be_worker(self, worker_id: UUID) -> None:
        self._worker_id = worker_id
        async with self._record.engine.begin() as connection:
            await connection.execute(_WORK, {"id": worker_id, "tasks": list(self._tasks)})
