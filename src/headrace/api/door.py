"""What the handlers of the API work with.

Owns the value `Door`: the parts of an API process, opened once and handed to every handler by the application's state.
Nothing here remembers a request: two API processes answer the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from litestar import Request

from headrace.api.auth import KeyRing
from headrace.api.job_requests import JobRequests, offered
from headrace.api.job_watch import Watches, open_watches
from headrace.api.live_keys import open_key_watch
from headrace.api.watch import SystemWatch, open_watch
from headrace.application import Registry
from headrace.database.record import Record
from headrace.events.reading import Reading
from headrace.jobs.ending import Endings, open_endings
from headrace.jobs.intake import Intake, open_intake
from headrace.jobs.queues import KnownQueues
from headrace.jobs.standing import Tally
from headrace.live.hub import Hub
from headrace.live.opening import open_hub
from headrace.settings import Settings
from headrace.telemetry.metrics import Metrics
from headrace.webhooks.calling import Caller, open_caller


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """The parts of an API process."""

    settings: Settings
    registry: Registry
    record: Record
    requests: JobRequests
    intake: Intake
    endings: Endings
    watches: Watches
    hub: Hub
    """The live tails of this process."""
    queues: KnownQueues
    keys: KeyRing
    watch: SystemWatch
    succeeded: Tally
    bulk: asyncio.Lock
    """Held by the one request that changes many jobs: it needs a second connection."""
    metrics: Metrics
    caller: Caller

    def release(self) -> None:
        """Let everybody go who waits here for something to happen: this process ends."""
        self.endings.release()
        self.watches.release()
        self.hub.release()


def door_of(request: Request[Any, Any, Any]) -> Door:
    """Return the parts that this request's application was made with."""
    door: Door = request.app.state.door
    return door


@asynccontextmanager
async def open_door(settings: Settings, registry: Registry, record: Record) -> AsyncIterator[Door]:
    """Open the parts of an API process on an open record."""
    async with (
        open_intake(record) as intake,
        open_endings(record) as endings,
        open_watches(settings, record) as watches,
        open_hub(settings, Reading(registry.events.values())) as hub,
        open_key_watch(record, hub),
        open_watch(settings, record) as watch,
        open_caller(settings) as caller,
    ):
        queues = KnownQueues(record.engine)
        yield Door(
            settings=settings,
            registry=registry,
            record=record,
            requests=JobRequests(offered(registry.tasks)),
            intake=intake,
            endings=endings,
            watches=watches,
            hub=hub,
            queues=queues,
            keys=KeyRing(record, settings.api_key),
            watch=watch,
            succeeded=Tally(),
            bulk=asyncio.Lock(),
            metrics=Metrics(),
            caller=caller,
        )
