"""The composition root: how settings become the parts of a process.

Owns the wiring, and nothing else: which applications are loaded, and what each process is given. Every part gets
what it needs by constructor arguments from here. Never look anything up from inside a station.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from headrace import diagnostics
from headrace.application import Application, Registry, combine, load
from headrace.database.driver import borrowed
from headrace.database.ready import wait_until_ready
from headrace.database.record import Record, open_record
from headrace.events.schemas import record_schemas
from headrace.settings import Settings
from headrace.subscribers.checkpoints import register
from headrace.subscribers.going_back import replays_to
from headrace.subscribers.redelivery import redelivering
from headrace.subscribers.redriving import redrives_to
from headrace.tasks.broker import RecordBroker
from headrace.tasks.claims import Claims, open_claims
from headrace.tasks.worker import Worker
from headrace.webhooks.task import calling_webhooks

_CLAIMS: Final = Application(name="headrace.claims", providers={Claims: open_claims})


@dataclass(frozen=True, slots=True)
class Resources:
    """What a process that is not a worker has in its hands."""

    settings: Settings
    registry: Registry
    record: Record
    broker: RecordBroker


def build_registry(settings: Settings) -> Registry:
    """Load the applications that the settings name and join them as `registry_of` does."""
    return registry_of(load(settings.applications))


def registry_of(applications: Sequence[Application]) -> Registry:
    """Join applications with the bundled diagnostics, with what delivers again to all of them, and with claims."""
    declared = combine([diagnostics.application, _CLAIMS, calling_webhooks(), *applications])
    subscriptions = declared.subscriptions
    return combine(
        [*declared.applications, redelivering(subscriptions), replays_to(subscriptions), redrives_to(subscriptions)]
    )


def build_broker(settings: Settings, registry: Registry, *, guest: bool = False) -> RecordBroker:
    """Make the broker that the tasks of a registry are sent through and run by; see `Worker` for `guest`."""
    worker = Worker(settings, registry.names, providers=registry.providers, migrations=registry.migrations, guest=guest)
    return RecordBroker(settings, registry.tasks, worker)


def broker_from_environment() -> RecordBroker:
    """Make the broker of a worker process."""
    settings = Settings.from_environment(os.environ)
    return build_broker(settings, build_registry(settings))


@asynccontextmanager
async def open_resources(
    settings: Settings, registry: Registry, *, statement_seconds: float | None = None
) -> AsyncIterator[Resources]:
    """Open the record, wait until it fits, and bind the tasks to it; see `open_record` for `statement_seconds`."""
    async with open_record(settings, statement_seconds=statement_seconds) as record:
        await wait_until_ready(record.engine, registry.migrations)
        # before the first event can be accepted: a subscription begins at the present of its registration
        await register(record.engine, registry.subscriptions.values())
        async with borrowed(record.engine) as connection:
            await record_schemas(connection, registry.events.values())
        broker = build_broker(settings, registry)
        broker.bind(record)
        yield Resources(settings, registry, record, broker)
