"""What inline tests are run by: the execution, the subscribers' handling and the settling, as the processes have them.

Owns their putting together, over tasks and subscriptions in which faults can happen. Never put one of Headrace's own
parts aside here for something like it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from headrace.providers import open_providers
from headrace.resources import Resources
from headrace.subscribers.contract import Kind
from headrace.subscribers.failures import DELIVER
from headrace.subscribers.handling import Handling
from headrace.subscribers.rebuild import REBUILD
from headrace.subscribers.rebuilding import Rebuild
from headrace.subscribers.redelivery import Redelivery
from headrace.subscribers.replay import REPLAY
from headrace.subscribers.replaying import Replay
from headrace.tasks.execution import Execution
from headrace.tasks.places import Places
from headrace.tasks.settler import Settler
from headrace.testing.faults import Faults
from headrace.testing.steps import Steps

_SESSIONS: Final = 4


@asynccontextmanager
async def open_steps(resources: Resources, faults: Faults) -> AsyncIterator[Steps]:
    """Put together what one test runs by, with its faults, for the block."""
    registry, record, settings = resources.registry, resources.record, resources.settings
    subscriptions = {name: faults.subscription(one) for name, one in registry.subscriptions.items()}
    tasks = {name: faults.task(task) for name, task in registry.names.items()}
    tasks |= {DELIVER: Redelivery(subscriptions), REPLAY: Replay(subscriptions), REBUILD: Rebuild(subscriptions)}
    async with open_providers(registry.providers, settings) as providers:
        gate = asyncio.Semaphore(_SESSIONS)
        handlings = {
            name: Handling(one, record, providers=providers, gate=gate)
            for name, one in subscriptions.items()
            if one.kind is Kind.SUBSCRIBER
        }
        settler = Settler(settings.database_url)
        places = Places(threads=1, processes=1)
        execution = Execution(tasks, record, providers, sessions=_SESSIONS, places=places)
        steps = Steps(record, subscriptions, handlings, execution=execution, settler=settler)
        await steps.begin(tasks)
        parts = [asyncio.create_task(settler.run())]
        parts += [asyncio.create_task(handling.deadlines.run()) for handling in handlings.values()]
        try:
            yield steps
        finally:
            for part in parts:
                part.cancel()
            await asyncio.wait(parts)
            await places.close()
