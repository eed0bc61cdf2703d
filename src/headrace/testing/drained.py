"""Drained: an application runs on the real stores, with a relay, a worker and consumers in the test's own process.

Owns the start and the end of these parts, as the processes start them, and the waiting until nothing is left to do.
Nothing is replaced, nothing is virtual: jobs run at the same time, retries wait for real, and Redis carries. That is
what shows whether two runs get in each other's way; for everything else `inline` is quicker and says more. Schedules do
not fire, because there is no clock, except without Redis, where one process has all parts. Never wait without a bound:
what is not done in time is named, with its reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, ParamSpec
from uuid import UUID

import msgspec
from redis.asyncio import Redis
from sqlalchemy import text

from headrace.application import Application
from headrace.database.states import FINISHED
from headrace.in_process.bus import NO_REDIS, at_work
from headrace.jobs.call import Enqueueable
from headrace.loops import Stop
from headrace.relay.process import parts_of, stand_by
from headrace.settings import Settings
from headrace.subscribers.held_keys import IS_OPEN
from headrace.subscribers.process import consume
from headrace.tasks.claims import Claims
from headrace.tasks.remembered_claims import RememberedClaims
from headrace.testing.observed import JobOutcome, NotDrainedError, Observed
from headrace.testing.opening import open_application, registry_for
from headrace.testing.stores import Stores
from headrace.testing.working import running, working

P = ParamSpec("P")

_PAUSE_SECONDS: Final = 0.02
_END_SECONDS: Final = 15.0

# A child that waits for its parents is nobody's turn; the ending of its last parent is the relay's. The fan-out of
# webhooks rests where there is none.
_LEFT: Final = text(f"""
    SELECT EXISTS (SELECT FROM jobs WHERE state IN ('pending', 'queued', 'running'))
        OR EXISTS (SELECT FROM jobs WHERE state IN ('scheduled', 'retrying') AND waits_for = 0
                   AND run_at <= now() + make_interval(secs => :seconds))
        OR EXISTS (SELECT FROM job_endings)
        OR EXISTS (SELECT FROM outbox)
        OR EXISTS (SELECT FROM checkpoints c
                   JOIN lanes ON lanes.lane = c.lane JOIN subscriptions s ON s.name = c.subscription
                   WHERE lanes.head > c.position AND NOT s.paused
                     AND (s.name <> 'headrace.webhooks' OR EXISTS (SELECT FROM webhooks WHERE enabled)))
        OR EXISTS (SELECT FROM held_keys AS k JOIN subscriptions s ON s.name = k.subscription
                   WHERE NOT s.paused AND {IS_OPEN})
""")  # noqa: S608 - composed of constants
_HURRY: Final = text("""
    UPDATE jobs SET run_at = now() WHERE state IN ('scheduled', 'retrying') AND waits_for = 0 AND run_at > now()
""")


class Drained(Observed):
    """A Headrace at work in the test's process. Get one from `drained`."""

    async def drain(self, seconds: float = 30.0, *, delayed: bool = False) -> None:
        """Wait until nothing is left to do that is due, or comes due, within that time.

        With `delayed`, delays and the pauses before retries are cut short: all of them is due at once.

        Raises:
            NotDrainedError: something is left; the message lists it, and why it is not done.

        """
        deadline = asyncio.get_running_loop().time() + seconds
        while (remaining := deadline - asyncio.get_running_loop().time()) > 0:
            async with self.record.engine.begin() as connection:
                if delayed:
                    await connection.execute(_HURRY)
                if not (await connection.execute(_LEFT, {"seconds": remaining})).scalar_one():
                    return
            await asyncio.sleep(_PAUSE_SECONDS)
        message = f"not all is done after {seconds} s; left are"
        raise NotDrainedError(message, await self.left())

    async def finish(self, job_id: UUID, seconds: float = 30.0) -> JobOutcome:
        """Wait until a job is finished and return how it ended.

        Raises:
            NotDrainedError: it is not finished in that time.

        """
        deadline = asyncio.get_running_loop().time() + seconds
        while (outcome := await self.outcome(job_id)).state not in FINISHED:
            if asyncio.get_running_loop().time() > deadline:
                message = f"the job {job_id} is {outcome.state} after {seconds} s; left are"
                raise NotDrainedError(message, await self.left())
            await asyncio.sleep(_PAUSE_SECONDS)
        return outcome

    async def run(self, task: Enqueueable[P], *args: P.args, **kwargs: P.kwargs) -> JobOutcome:
        """Enqueue a task, wait until the job is finished, and return how it ended."""
        return await self.finish(await self.enqueue(task, *args, **kwargs))


@asynccontextmanager
async def drained(
    applications: Application | Sequence[Application],
    stores: Stores,
    *,
    providers: Mapping[type[Any], object] | None = None,
    settings: Settings | None = None,
    redis: bool = True,
) -> AsyncIterator[Drained]:
    """Run an application, or several, on a fresh database and an emptied Redis.

    Args:
        applications: what is tested.
        stores: where the database is made, and the Redis.
        providers: instances to hand out in the place of what the application would open, by their types.
        settings: what everything runs with, with the URLs replaced.
        redis: without it lanes and queues lie in memory, and no Redis is started, as in `headrace.in_process`.

    Example:
        >>> async with drained(application, headrace_stores) as headrace:
        ...     await headrace.publish(CustomerJoined(name="Ada"))
        ...     await headrace.drain()

    """
    claims = {} if redis else {Claims: Claims(RememberedClaims())}
    registry = registry_for(applications, {**claims, **(providers or {})})
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(stores.database(registry.migrations))
        chosen = settings or Settings(log_level="warning", lease_seconds=1.0, shutdown_seconds=5.0)
        chosen = msgspec.structs.replace(chosen, database_url=url, redis_url=stores.redis_url if redis else NO_REDIS)
        resources = await stack.enter_async_context(open_application(chosen, registry))
        if not redis:
            await stack.enter_async_context(at_work(resources))
            yield Drained(resources)
            return
        await _empty(stores.redis_url)
        parts, end = parts_of(registry.tasks), Stop()
        for process in (
            lambda stop: stand_by(chosen, stop, parts=parts, migrations=registry.migrations),
            lambda stop: consume(chosen, registry, stop),
        ):
            await stack.enter_async_context(running(process, _END_SECONDS, end))
        await stack.enter_async_context(working(resources, seconds=_END_SECONDS))
        stack.callback(end.set)  # all end at the same time
        yield Drained(resources)


async def _empty(redis_url: str) -> None:
    """Take away what an earlier test left."""
    async with Redis.from_url(redis_url) as redis:
        if keys := [key async for key in redis.scan_iter(match="headrace:*")]:
            await redis.delete(*keys)
