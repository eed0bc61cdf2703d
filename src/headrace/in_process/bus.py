"""A bus within one process: an application's subscribers, projections, tasks and schedules, without Redis.

Owns the start and the end of everything that a small service, or a test, needs besides PostgreSQL. What it promises is
what a deployment promises, because the record decides here too: what was committed will happen, effects through the
session happen once, keys keep their order, a failing delivery becomes a job that this process runs again. A crash loses
what lay in memory, and nothing else: the next start fills lanes and queues from the record. Of several processes on one
record one is at work and the others stand by. Never take it for more than one process can do.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from typing import Any, Final

import msgspec

from headrace.application import Application
from headrace.database.record import Record
from headrace.in_process.parts import Attendants, InProcessParts
from headrace.leases import Leases
from headrace.loops import Stop
from headrace.presence import Identity, Presence
from headrace.providers import Factory
from headrace.relay.leader import Ground, Leader
from headrace.resources import Resources, open_resources, registry_of
from headrace.settings import Settings
from headrace.streams.connection import open_commands
from headrace.tasks.claims import Claims
from headrace.tasks.remembered_claims import RememberedClaims
from headrace.transaction import Transaction, transaction

NO_REDIS: Final = "redis://127.0.0.1:1/0"
"""Nothing here depends on it: live tails, the only ones who try, find nobody there."""

_GRACE_SECONDS: Final = 5.0


class Bus:
    """What the block has in its hands. Get one from `in_process`."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources

    @property
    def record(self) -> Record:
        """The record."""
        return self.resources.record

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Open a transaction, in which domain rows, events and jobs are written together."""
        return transaction(self.record)

    async def publish(self, *events: msgspec.Struct) -> None:
        """Publish events in a transaction of their own."""
        async with self.transaction() as tx:
            for event in events:
                await tx.publish(event)


@asynccontextmanager
async def in_process(settings: Settings, applications: Application | Sequence[Application]) -> AsyncIterator[Bus]:
    """Run applications in this process for the block.

    At the end nothing new is taken up, what runs may finish for `settings.shutdown_seconds`, and the rest stays on
    record for the next start.

    Args:
        settings: of this process; `redis_url` counts for nothing.
        applications: one or several.

    Raises:
        ConfigurationError: the declarations do not fit together.
        SchemaMismatchError: the schema is not the one of this code: run `headrace migrate`.

    Example:
        >>> async with in_process(Settings(database_url=url), application) as bus:
        ...     await bus.publish(CustomerJoined("Ada"))

    """
    registry = registry_of([applications] if isinstance(applications, Application) else applications)
    claims = Claims(RememberedClaims())
    given: dict[type[Any], Factory] = {**registry.providers, Claims: lambda _settings: nullcontext(claims)}
    registry = dataclasses.replace(registry, providers=given)
    chosen = msgspec.structs.replace(settings, redis_url=NO_REDIS)
    async with open_resources(chosen, registry) as resources, at_work(resources):
        yield Bus(resources)


@asynccontextmanager
async def at_work(resources: Resources) -> AsyncIterator[None]:
    """Be at work, or stand by, for the block; `resources` say on what."""
    settings, record = resources.settings, resources.record
    identity = Identity("relay", settings.lease_seconds)
    attendants, stop = Attendants(), Stop()
    async with AsyncExitStack() as stack:
        redis = open_commands(settings.redis_url, connections=2)
        stack.push_async_callback(redis.aclose)
        presence = Presence(settings.database_url, identity)
        await presence.start()
        stack.push_async_callback(presence.stop)
        leases = Leases(record.engine, identity.id, seconds=settings.lease_seconds)
        parts = InProcessParts(resources, attendants).parts()
        leading = asyncio.create_task(Leader(Ground(record, redis, settings), leases, parts).run(stop))
        try:
            yield
        finally:
            await attendants.end(settings.shutdown_seconds + _GRACE_SECONDS)
            stop.set()
            await leading
