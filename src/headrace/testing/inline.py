"""Inline: an application's tasks, subscribers and schedules run in the test itself, by a virtual clock.

Owns the clock of a test and the loop of its work. The record is a real PostgreSQL, so that what a session writes is
written, what is rolled back is gone, and a unique key is unique; there is no Redis, no other process, and no waiting:
`drain` does what is due now, `advance` lets the time pass, from one due moment to the next. Retries, delays, snoozes,
expiry, rates, workflows and cron schedules follow that clock, because the record itself tells it. What is real about
time is the inside of a task: a task that sleeps for a minute takes a minute. Never use it to test what happens when two
things run at once: `drained` is for that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final, ParamSpec
from uuid import UUID

import msgspec
from sqlalchemy import text

from headrace.application import Application
from headrace.clock import told_by
from headrace.cron.fire import fire_due
from headrace.cron.register import register_schedules
from headrace.database.states import FINISHED
from headrace.errors import ConfigurationError
from headrace.jobs.call import Enqueueable
from headrace.jobs.queues import register_queues
from headrace.resources import Resources
from headrace.settings import Settings
from headrace.tasks.claims import Claims
from headrace.tasks.remembered_claims import RememberedClaims
from headrace.testing.faults import Failing, Faults
from headrace.testing.observed import JobOutcome, NotDrainedError, Observed
from headrace.testing.opening import open_application, registry_for
from headrace.testing.parts import open_steps
from headrace.testing.steps import Steps
from headrace.testing.stores import Stores
from headrace.testing.virtual import ask_time, set_time

P = ParamSpec("P")

MOST_STEPS: Final = 5_000
"""How much one `drain` does before it takes the work for endless."""

_NO_REDIS: Final = "redis://127.0.0.1:1/0"
"""Nothing here connects to it."""

# What the clock has to stop at: what becomes due or expires, and where a rate has room again.
_NEXT: Final = text("""
    SELECT min(at) FROM (
        SELECT run_at AS at FROM jobs WHERE state IN ('scheduled', 'pending', 'retrying') AND waits_for = 0
        UNION ALL
        SELECT expires_at FROM jobs WHERE state IN ('scheduled', 'pending', 'queued', 'retrying')
        UNION ALL
        SELECT next_due_at FROM schedules WHERE enabled
        UNION ALL
        SELECT s.at + make_interval(secs => q.rate_per_seconds) + interval '1 millisecond'
        FROM queues q JOIN queue_starts s ON s.queue = q.name
        WHERE EXISTS (SELECT FROM jobs WHERE queue = q.name AND state = 'pending')) AS moments
    WHERE at > now()
""")

_REWIND: Final = text("""
    UPDATE checkpoints SET position = 0 FROM subscriptions s
    WHERE s.name = checkpoints.subscription AND s.kind = 'subscriber'
""")


class Inline(Observed):
    """A Headrace that runs in the test, step by step. Get one from `inline`."""

    def __init__(self, resources: Resources, steps: Steps, faults: Faults, now: datetime) -> None:
        super().__init__(resources)
        self._steps = steps
        self._faults = faults
        self._now = now

    @property
    def now(self) -> datetime:
        """What time it is, for the record and for `headrace.clock.now` within tasks and subscribers."""
        return self._now

    def at_its_time(self) -> AbstractContextManager[None]:
        """Let `headrace.clock.now` tell the virtual time for the block, as it does in tasks and subscribers."""
        return told_by(lambda: self._now)

    async def run(self, task: Enqueueable[P], *args: P.args, **kwargs: P.kwargs) -> JobOutcome:
        """Enqueue a task, do what is due, the job and all that follows from it, and return how the job stands."""
        job_id = await self.enqueue(task, *args, **kwargs)
        await self.drain()
        return await self.outcome(job_id)

    async def drain(self) -> None:
        """Do what is due now, and all that follows from it; the time stands still.

        Raises:
            NotDrainedError: there is no end to it.

        """
        done: list[str] = []
        with self.at_its_time():
            while (what := await self._steps.run_once(self._now)) is not None:
                done.append(what)
                if len(done) >= MOST_STEPS:
                    last = ", ".join(sorted(set(done[-100:])))
                    message = f"after {MOST_STEPS} steps there is no end to the work, lately of {last}; left are"
                    raise NotDrainedError(message, await self.left())

    async def advance(self, seconds: float = 0.0, *, hours: float = 0.0, days: float = 0.0) -> None:
        """Let the time pass: each job, retry and schedule comes at the moment at which it is due.

        Raises:
            NotDrainedError: there is no end to what is due.

        """
        await self.advance_to(self._now + timedelta(seconds=seconds, hours=hours, days=days))

    async def advance_to(self, moment: datetime) -> None:
        """Let it be that moment, after everything that is due before.

        Raises:
            ValueError: it is in the past, or has no time zone.

        """
        if moment < self._now:
            message = f"it is {self._now} already: the time cannot go back to {moment}"
            raise ValueError(message)
        await self.drain()
        while (next_due := await self._next_due()) is not None and next_due <= moment:
            await self._set(next_due)
            await self.drain()
        await self._set(moment)

    async def finish(self, job_id: UUID, *, days: float = 30.0) -> JobOutcome:
        """Let as much time pass as a job needs to its end, with all its retries, and return how it ended.

        Raises:
            NotDrainedError: it is not finished after that many days, or nothing will ever finish it.

        """
        until = self._now + timedelta(days=days)
        await self.drain()
        while (outcome := await self.outcome(job_id)).state not in FINISHED:
            next_due = await self._next_due()
            if next_due is None or next_due > until:
                message = f"at {self._now} the job {job_id} is {outcome.state}, and will be for {days} days; left are"
                raise NotDrainedError(message, await self.left())
            await self._set(next_due)
            await self.drain()
        return outcome

    async def finish_all(self, *, days: float = 30.0) -> None:
        """Let as much time pass as all unfinished jobs need, and those that come of them.

        Raises:
            NotDrainedError: some are not finished after that many days.

        """
        await self.drain()
        while unfinished := await self.unfinished():
            await self.finish(unfinished[0], days=days)

    async def redeliver(self) -> None:
        """Bring every event to its subscribers once more, as after a crash before its acknowledgement.

        What they write through their delivery must not happen twice; that is Headrace's part. What they do elsewhere
        does, and what becomes of it is theirs. Projections cannot be brought anything twice.
        """
        async with self.transaction() as tx:
            await tx.connection.execute(_REWIND)
        await self.drain()

    def fail(self, what: Failing, error: BaseException, *, times: int = 1) -> None:
        """Let the next attempts of a task or subscription raise this error in the place of their function."""
        self._faults.fail(what, error, times=times)

    def crash(self, what: Failing, *, times: int = 1) -> None:
        """Let the process die at the end of the next attempts, after the function and before the commit.

        What the function did outside PostgreSQL is done; what it wrote through its session is rolled back. A job's
        attempt is lost, and another worker runs it again; an event is delivered again.
        """
        self._faults.crash(what, times=times)

    async def _next_due(self) -> datetime | None:
        async with self.record.engine.connect() as connection:
            found: datetime | None = (await connection.execute(_NEXT)).scalar_one()
        paused = [moment for moment in self._steps.paused_until.values() if moment > self._now]
        return min([*([found] if found else []), *paused], default=None)

    async def _set(self, moment: datetime) -> None:
        self._now = moment
        await set_time(self.record.engine, moment)
        with self.at_its_time():
            await fire_due(self.record, self._resources.registry)


@asynccontextmanager
async def inline(
    applications: Application | Sequence[Application],
    stores: Stores,
    *,
    at: datetime | None = None,
    providers: Mapping[type[Any], object] | None = None,
    settings: Settings | None = None,
) -> AsyncIterator[Inline]:
    """Run an application, or several, in the test, on a fresh database with its migrations.

    Args:
        applications: what is tested.
        stores: where the database is made.
        at: what time it is at the beginning, aware; the present by default.
        providers: instances to hand out in the place of what the application would open, by their types.
        settings: what the factories of providers are given, with the URLs replaced.

    Raises:
        ConfigurationError: `at` has no time zone, the declarations do not fit together, or there is no PostgreSQL.

    Example:
        >>> async with inline(application, headrace_stores) as headrace:
        ...     assert (await headrace.run(greet, "Ada")).result == "Good morning, Ada"

    """
    if at is not None and at.tzinfo is None:
        message = f"{at} could be any time: give it a time zone, such as tzinfo=UTC"
        raise ConfigurationError(message)
    registry = registry_for(applications, {Claims: Claims(RememberedClaims()), **(providers or {})})
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(stores.database(registry.migrations, virtual_clock=True))
        chosen = msgspec.structs.replace(settings or Settings(), database_url=url, redis_url=_NO_REDIS)
        resources = await stack.enter_async_context(open_application(chosen, registry))
        now = at or await ask_time(resources.record.engine)
        await set_time(resources.record.engine, now)
        await register_queues(resources.record.engine, {task.policy.queue for task in registry.tasks.values()})
        await register_schedules(resources.record, registry)
        faults = Faults()
        steps = await stack.enter_async_context(open_steps(resources, faults))
        yield Inline(resources, steps, faults, now)
