"""An application is opened for a test: its registry, its record, its tasks bound to it for that long.

Owns what both ways of running share. A task is bound to the record of one test and is given back its former broker
after it, so that tests do not see each other. Never leave a task bound.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from headrace.application import Application, Registry
from headrace.providers import Factory
from headrace.resources import Resources, open_resources, registry_of
from headrace.settings import Settings


def registry_for(applications: Application | Sequence[Application], provided: Mapping[type[Any], object]) -> Registry:
    """Join applications to a registry whose providers are replaced by the given instances."""
    registry = registry_of([applications] if isinstance(applications, Application) else applications)
    given = {kind: _giving(instance) for kind, instance in provided.items()}
    return dataclasses.replace(registry, providers={**registry.providers, **given})


def _giving(instance: object) -> Factory:
    return lambda _settings: nullcontext(instance)


@asynccontextmanager
async def open_application(settings: Settings, registry: Registry) -> AsyncIterator[Resources]:
    """Open the record, register the subscriptions, and bind the tasks for the block."""
    before = {name: task.broker for name, task in registry.tasks.items()}
    try:
        async with open_resources(settings, registry) as resources:
            yield resources
    finally:
        for name, broker in before.items():
            registry.tasks[name].broker = broker
