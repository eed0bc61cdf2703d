"""An API for tests: the real application on a real record, called without a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import msgspec

from headrace import diagnostics
from headrace.api.app import create_app
from headrace.api.door import Door, open_door
from headrace.api.process import STATEMENT_SECONDS
from headrace.application import Application, combine
from headrace.database.record import open_record
from headrace.events.registry import event
from headrace.settings import Settings
from headrace.tasks.contract import task
from headrace.tasks.run import Run

KEY = "operator-key"
HEADERS = {"Authorization": f"Bearer {KEY}"}


@event("trial.thing.happened", subject="thing")
class ThingHappened(msgspec.Struct, frozen=True):
    """Something happened to a thing."""

    thing: str
    count: int = 1


class Line(msgspec.Struct, frozen=True):
    """A line of something."""

    sku: str
    quantity: int


@task("trial.order", queue="orders")
async def order(run: Run, order_id: str, items: list[Line]) -> int:
    """Take an order with lines."""
    del run, order_id
    return len(items)


TRIAL = Application(name="trial", tasks=(order,), events=(ThingHappened,), migrations="storefront.migrations")


@asynccontextmanager
async def open_api(
    settings: Settings, *others: Application, statement_seconds: float = STATEMENT_SECONDS
) -> AsyncIterator[tuple[httpx.AsyncClient, Door]]:
    """Open an API and a client with a key for everything."""
    async with (
        open_record(settings, statement_seconds=statement_seconds) as record,
        open_door(settings, combine([diagnostics.application, TRIAL, *others]), record) as door,
    ):
        transport = httpx.ASGITransport(cast("Any", create_app(door)))
        async with httpx.AsyncClient(transport=transport, base_url="http://api", headers=HEADERS) as client:
            yield client, door


async def enqueue(client: httpx.AsyncClient, **changes: object) -> dict[str, Any]:
    """Enqueue an echo and return the job."""
    answer = await client.post("/v1/jobs", json={"task": "diagnostics.echo", "args": {"value": 1}} | changes)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job
