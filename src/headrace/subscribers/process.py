"""The process `headrace consume`: runs all subscriptions, or those named, until it is told to stop.

Owns what the process is made of: its presence, its leases, and for each subscription a consumer with a connection of
its own and a reactor. At the end it reads nothing more, lets what was taken up finish for `shutdown_seconds`, gives its
lanes back, and leaves the rest to their next owner. Any number of these processes may run; they share the lanes. Never
let one subscription's failure stop another.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from headrace.application import Registry
from headrace.collector import spare_collector
from headrace.database.away import is_away
from headrace.database.driver import borrowed
from headrace.database.ready import wait_until_ready
from headrace.database.record import Record, open_record
from headrace.database.sessions import session_name
from headrace.errors import ConfigurationError
from headrace.events.schemas import record_schemas
from headrace.leases import Leases
from headrace.loops import Pace, Stop, repeat
from headrace.presence import Identity, Presence
from headrace.providers import Providers, open_providers
from headrace.settings import Settings
from headrace.streams.redis import open_transport
from headrace.streams.transport import LaneGroup, Transport
from headrace.subscribers.checkpoints import register
from headrace.subscribers.concurrent import Concurrent
from headrace.subscribers.consumer import Consumer
from headrace.subscribers.contract import Kind, Subscription
from headrace.subscribers.handling import Handling
from headrace.subscribers.lane import Reactor
from headrace.subscribers.ownership import Ownership
from headrace.subscribers.projecting import Projecting
from headrace.subscribers.settler import Settler
from headrace.telemetry.logs import configure_logging
from headrace.telemetry.setup import configure
from headrace.webhooks.model import FAN_OUT
from headrace.webhooks.resting import leap

logger = structlog.get_logger(__name__)

_KEPT_CONNECTIONS = 3
"""Connections of the pool that handlers leave to settling, checkpoints and leases."""

_FINISH_SECONDS = 0.05
_LEAP_PACE = Pace(1.0, last_backoff_seconds=2.0)


@dataclass(frozen=True, slots=True)
class Ground:
    """What every subscription of the process stands on."""

    settings: Settings
    record: Record
    transport: Transport
    providers: Providers
    consumer_name: str
    gate: asyncio.Semaphore


async def run_consume(settings: Settings, registry: Registry, stop: Stop) -> None:
    """Be the process: logs and traces are those of a consumer; else as `consume`."""
    configure_logging(settings, "consume")
    telemetry = configure("consume")
    spare_collector()
    try:
        await consume(settings, registry, stop)
    finally:
        telemetry.shutdown()


Opening = Callable[[str], AbstractAsyncContextManager[Transport]]
"""Opens the transport of a process, by the URL of its settings."""


async def consume(settings: Settings, registry: Registry, stop: Stop, *, opening: Opening = open_transport) -> None:
    """Consume what `opening` leads to until `stop` is set.

    Raises:
        ConfigurationError: `settings.subscriptions` names one that no application has.

    """
    chosen = _chosen(settings, registry.subscriptions)
    identity = Identity("consume", settings.lease_seconds, tasks=sorted(chosen))
    async with AsyncExitStack() as stack:
        record = await stack.enter_async_context(open_record(settings, session_name=session_name(identity.id)))
        if not await wait_until_ready(record.engine, registry.migrations, stop):
            return
        await register(record.engine, chosen.values())
        async with borrowed(record.engine) as connection:
            await record_schemas(connection, registry.events.values())
        providers = await stack.enter_async_context(open_providers(registry.providers, settings))
        transport = await stack.enter_async_context(opening(settings.redis_url))
        presence = Presence(settings.database_url, identity)
        await presence.start()
        stack.push_async_callback(presence.stop)
        gate = asyncio.Semaphore(max(settings.database_pool_size - _KEPT_CONNECTIONS, 1))
        ground = Ground(settings, record, transport, providers, str(identity.id), gate)
        leases = Leases(record.engine, identity.id, seconds=settings.lease_seconds)
        await _consume(ground, leases, chosen, stop)


def _chosen(settings: Settings, known: Mapping[str, Subscription]) -> dict[str, Subscription]:
    if settings.subscriptions is None:
        return dict(known)
    # every process fans events out to webhooks: a list of names made before there were any would leave it to nobody
    names = [name.strip() for name in settings.subscriptions.split(",") if name.strip()]
    for name in names:
        if name not in known:
            message = f"HEADRACE_SUBSCRIPTIONS names {name}; the loaded applications have {', '.join(sorted(known))}"
            raise ConfigurationError(message)
    return {name: known[name] for name in [*names, *(own for own in (FAN_OUT,) if own in known)]}


async def _consume(ground: Ground, leases: Leases, chosen: Mapping[str, Subscription], stop: Stop) -> None:
    settings = ground.settings
    async with AsyncExitStack() as stack:
        parts = [await stack.enter_async_context(_part(ground, subscription)) for subscription in chosen.values()]
        consumers = {part.consumer.subscription.name: part.consumer for part in parts}
        ownership = Ownership(ground.record.engine, leases, consumers, lease_seconds=settings.lease_seconds)
        reacting = [asyncio.create_task(part.reactor.run()) for part in parts]
        reading = [asyncio.create_task(part.consumer.run(part.reactor, stop)) for part in parts]
        owning = asyncio.create_task(
            repeat("own", ownership.run_once, Pace(settings.lease_seconds / 6, last_backoff_seconds=0.5), stop)
        )
        resting = asyncio.create_task(repeat("rest", lambda: leap(ground.record), _LEAP_PACE, stop))
        try:
            await _until_any_ends(owning, *reading, *reacting)
            await asyncio.gather(owning, *reading)
            await _finish(ownership, settings.shutdown_seconds)
        finally:
            await _end(owning, resting, *reading, *reacting)


@dataclass(frozen=True, slots=True)
class Part:
    """A subscription at work."""

    consumer: Consumer
    reactor: Reactor


@asynccontextmanager
async def _part(ground: Ground, subscription: Subscription) -> AsyncIterator[Part]:
    async with ground.transport.group(subscription.name, ground.consumer_name) as group:
        consumer = Consumer(subscription, ground.record, group=group)
        yield Part(consumer, _reactor(ground, consumer, group))


def _reactor(ground: Ground, consumer: Consumer, group: LaneGroup) -> Reactor:
    subscription, record = consumer.subscription, ground.record
    if subscription.kind is Kind.PROJECTION:
        return Projecting(subscription, record, lanes=group, on_room=consumer.wake)
    return Concurrent(
        subscription,
        record,
        handling=Handling(subscription, record, providers=ground.providers, gate=ground.gate),
        settler=Settler(record.engine, group, subscription.name, on_room=consumer.wake),
        workers=ground.settings.consumer_concurrency,
    )


async def _until_any_ends(*tasks: asyncio.Task[Any]) -> None:
    """Wait for the first task that ends; raise what it raised: a process that is half alive must not look alive."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def _finish(ownership: Ownership, patience_seconds: float) -> None:
    """Give the lanes back, each when it is finished, and those that are not when the patience is over."""
    pause = Stop()
    try:
        async with asyncio.timeout(patience_seconds):
            while not await ownership.finish():
                await pause.wait(_FINISH_SECONDS)
    except TimeoutError:
        await ownership.abandon()
    except Exception as error:
        if not is_away(error):
            raise
        logger.warning("lanes_not_given_back", error=repr(error))  # they are free when their leases run out


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
