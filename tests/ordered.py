"""The whole road in this process, for tests of order: relay, consumers, and a worker that runs the jobs of deliveries.

Owns what these tests share: an ordered subscriber that fails while a table says so, and the questions asked of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import httpx
import msgspec
from sqlalchemy import text

from headrace.application import Registry, combine
from headrace.database.record import Record
from headrace.jobs.retry import Retry
from headrace.relay.moving import move_events
from headrace.relay.process import stand_by
from headrace.relay.releasing import keep_jobs, mend_belt, release_jobs
from headrace.resources import open_resources
from headrace.settings import Settings
from headrace.subscribers.contract import Subscription, subscriber
from headrace.subscribers.delivery import Delivery
from headrace.subscribers.process import consume
from headrace.subscribers.redelivery import redelivering
from headrace.subscribers.redriving import redrives_to
from headrace.testing.working import running, working
from tests.conftest import MIGRATIONS
from tests.integration.api_road import KEY, open_api
from tests.lanes import WAIT_SECONDS, Thing, eventually, publish, registered, registry_of

NAME = "tests.ordered"
SOON = Retry(max_attempts=200, first_delay_seconds=0.05, max_delay_seconds=0.05)
TABLES = """
    CREATE TABLE handled (place bigserial, key text NOT NULL, number int NOT NULL);
    CREATE TABLE broken (key text NOT NULL, number int NOT NULL);
"""


async def handle(delivery: Delivery, thing: Thing) -> None:
    """Note the thing; fail as long as it is broken."""
    tx = await delivery.begin()
    row = {"key": thing.key, "number": thing.number}
    await tx.connection.execute(text("INSERT INTO handled (key, number) VALUES (:key, :number)"), row)
    found = await tx.connection.execute(text("SELECT 1 FROM broken WHERE key = :key AND number = :number"), row)
    if found.first() is not None:
        message = f"{thing.key}:{thing.number} is broken"
        raise ConnectionError(message)


ordered = subscriber(NAME, Thing, ordered=True, retry=SOON)(handle)
brittle = subscriber(NAME, Thing, ordered=True, retry=Retry(max_attempts=1))(handle)


@dataclass(frozen=True, slots=True)
class World:
    """The stores and what is asked of them."""

    settings: Settings
    record: Record
    driver: asyncpg.Connection[asyncpg.Record]

    async def publish(self, *things: Thing) -> None:
        """Publish things, each in a transaction of its own."""
        await publish(self.record, things)

    async def break_(self, key: str, number: int) -> None:
        """Let a thing fail from now on."""
        await self.driver.execute("INSERT INTO broken VALUES ($1, $2)", key, number)

    async def mend(self) -> None:
        """Let nothing fail any more."""
        await self.driver.execute("DELETE FROM broken")

    async def handled(self, key: str) -> list[int]:
        """Return the numbers of a key, in the order in which they were handled."""
        rows = await self.driver.fetch("SELECT number FROM handled WHERE key = $1 ORDER BY place", key)
        return [row["number"] for row in rows]

    async def until_handled(self, key: str, numbers: Sequence[int]) -> None:
        """Wait until so many things of a key are handled, and see that they are these, in this order."""

        async def enough() -> bool:
            return len(await self.handled(key)) >= len(numbers)

        await eventually(enough)
        assert await self.handled(key) == list(numbers)

    async def until_waiting(self, count: int) -> None:
        """Wait until so many events wait on record."""

        async def waits() -> bool:
            return bool(await self.driver.fetchval("SELECT count(*) = $1 FROM waiting_events", count))

        await eventually(waits)

    async def until_free(self) -> None:
        """Wait until no key is held."""

        async def free() -> bool:
            return bool(await self.driver.fetchval("SELECT count(*) = 0 FROM held_keys"))

        await eventually(free)

    async def job(self) -> UUID:
        """Return the job of the one failed delivery."""
        found: UUID = await self.driver.fetchval("SELECT job_id FROM deliveries")
        return found

    async def in_state(self, *states: str) -> None:
        """Wait until the job of the one failed delivery is in one of these states."""

        async def there() -> bool:
            found = await self.driver.fetchval("SELECT j.state::text FROM jobs j JOIN deliveries d ON d.job_id = j.id")
            return found in states

        await eventually(there)


@asynccontextmanager
async def open_world(database_url: str, redis_url: str, *subscriptions: Subscription) -> AsyncIterator[World]:
    """Prepare the stores; nothing runs yet."""
    driver = await asyncpg.connect(database_url)
    await driver.execute(TABLES)
    settings = Settings(
        database_url=database_url, redis_url=redis_url, lease_seconds=1.0, shutdown_seconds=5.0, api_key=KEY
    )
    async with open_resources(settings, whole(*subscriptions)) as resources:
        await registered(resources.record, *subscriptions)
        yield World(settings, resources.record, driver)
    await driver.close()


def whole(*subscriptions: Subscription) -> Registry:
    """Return the registry of an application with these subscriptions and what redelivers to them."""
    declared = registry_of(*subscriptions)
    again = (redelivering(declared.subscriptions), redrives_to(declared.subscriptions))
    return combine([*declared.applications, *again])


@asynccontextmanager
async def on_the_road(world: World, *subscriptions: Subscription, lanes: int | None = None) -> AsyncIterator[None]:
    """Run a relay, a consumer and a worker for the block."""
    registry = whole(*subscriptions)
    settings = msgspec.structs.replace(world.settings, lanes=lanes)
    parts = (move_events, release_jobs, keep_jobs, mend_belt)
    async with AsyncExitStack() as stack:
        resources = await stack.enter_async_context(open_resources(settings, registry))
        await stack.enter_async_context(working(resources, seconds=WAIT_SECONDS))
        relay = running(lambda stop: stand_by(settings, stop, migrations=MIGRATIONS, parts=parts), WAIT_SECONDS)
        await stack.enter_async_context(relay)
        await stack.enter_async_context(running(lambda stop: consume(settings, registry, stop), WAIT_SECONDS))
        yield


@asynccontextmanager
async def api_of(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """Open an API on the same record."""
    async with open_api(world.settings) as (client, _):
        yield client
