"""A subscription whose deliveries die, and live again when somebody mends what was wrong.

Owns the application of those tests, its tables, and the making of deliveries that are dead from the start. Whether the
world is mended stands in the record, so that another process knows too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import msgspec
from redis.asyncio import Redis
from sqlalchemy import text

from headrace.application import Application
from headrace.database.record import Record
from headrace.events.queries import recorded_event
from headrace.events.registry import event
from headrace.jobs.retry import PermanentError, Retry
from headrace.resources import open_resources, registry_of
from headrace.settings import Settings
from headrace.subscribers.contract import subscriber
from headrace.subscribers.delivery import Delivery
from headrace.subscribers.failures import Failure, become_job
from headrace.transaction import transaction
from tests.integration.api_road import KEY
from tests.road import Road

TABLES = """
    CREATE TABLE mended (yes boolean NOT NULL DEFAULT false);
    INSERT INTO mended DEFAULT VALUES;
    CREATE TABLE shipped (number integer NOT NULL);
"""


class OutOfStockError(PermanentError):
    """Nothing is left to be shipped."""


@event("letters.parcel.packed", subject="customer")
class Packed(msgspec.Struct, frozen=True):
    """A parcel was packed."""

    customer: str
    number: int


@event("letters.parcel.lost", subject="customer")
class Lost(msgspec.Struct, frozen=True):
    """A parcel was lost."""

    customer: str
    number: int


@subscriber("letters.ship", Packed, Lost, retry=Retry(max_attempts=3, first_delay_seconds=0.0))
async def ship(delivery: Delivery, parcel: Packed | Lost) -> None:
    """Ship a parcel, as soon as the world is mended."""
    tx = await delivery.begin()
    await tx.connection.execute(text("INSERT INTO shipped VALUES (:number)"), {"number": parcel.number})
    if not (await tx.connection.execute(text("SELECT yes FROM mended"))).scalar_one():
        message = f"parcel {parcel.number} is out of stock"
        raise OutOfStockError(message)


application = Application(
    name="letters", events=(Packed, Lost), subscriptions=(ship,), migrations="storefront.migrations"
)


async def prepare(database_url: str) -> None:
    """Make the tables."""
    driver = await asyncpg.connect(database_url)
    await driver.execute(TABLES)
    await driver.close()


@dataclass(frozen=True, slots=True)
class Letters:
    """What is shipped, and what is dead."""

    record: Record
    driver: asyncpg.Connection[asyncpg.Record]

    async def die(self, parcels: Sequence[Packed | Lost], error: Exception | None = None) -> list[UUID]:
        """Publish parcels whose deliveries are dead at once, by an error or as the subscriber itself fails."""
        async with transaction(self.record) as tx:
            ids = [await tx.publish(parcel) for parcel in parcels]
        for identity, parcel in zip(ids, parcels, strict=True):
            async with self.record.engine.connect() as connection:
                found = await recorded_event(connection, identity)
            assert found is not None
            failure = error or OutOfStockError(f"parcel {parcel.number} is out of stock")
            await become_job(self.record, ship, found, Failure(failure, outcome="rejected"))
        return ids

    async def mend(self) -> None:
        """Make an end of the reason for dying."""
        await self.driver.execute("UPDATE mended SET yes = true")

    async def shipped(self) -> list[int]:
        """Return the effects."""
        return [row[0] for row in await self.driver.fetch("SELECT number FROM shipped ORDER BY 1")]

    async def dead(self) -> int:
        """Return how many deliveries are dead, as the jobs themselves say."""
        count: int = await self.driver.fetchval(
            "SELECT count(*) FROM jobs WHERE state = 'dead' AND task = 'headrace.deliver'"
        )
        return count


def settings_of(database_url: str, redis_url: str) -> Settings:
    """Return the settings of the application's processes, which are all of the release `r1`."""
    return Settings(
        database_url=database_url,
        redis_url=redis_url,
        applications="tests.dead_letters:application",
        release="r1",
        api_key=KEY,
        lease_seconds=1.0,
        worker_concurrency=20,
        shutdown_seconds=3.0,
    )


@asynccontextmanager
async def open_letters_road(database_url: str, redis_url: str) -> AsyncIterator[Road]:
    """Prepare the stores for the application, and bind it; no relay and no worker runs yet."""
    settings, registry = settings_of(database_url, redis_url), registry_of([application])
    await prepare(database_url)
    async with AsyncExitStack() as stack:
        driver = await asyncpg.connect(database_url)
        stack.push_async_callback(driver.close)
        redis = Redis.from_url(redis_url)
        stack.push_async_callback(redis.aclose)
        resources = await stack.enter_async_context(open_resources(settings, registry))
        yield Road(settings, registry, resources, redis, driver)
