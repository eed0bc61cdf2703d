"""The road in one hand: delivers events and runs jobs of the storefront, one after the other, in this process.

Owns the order of things and nothing else: subscriptions, claims, attempts and outcomes are those of Headrace on a real
record. What is due later is due at once, so that retries take no time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import UUID

import asyncpg
import msgspec

from headrace.application import Registry, combine
from headrace.clock import new_id
from headrace.database.record import Record, open_record
from headrace.events.model import RecordedEvent
from headrace.jobs.claim import claim
from headrace.jobs.model import Claim
from headrace.jobs.settle import settle
from headrace.providers import Providers, open_providers
from headrace.settings import Settings
from headrace.subscribers.contract import Kind, Subscription
from headrace.subscribers.delivery import AlreadyHandled, Delivery
from headrace.tasks.execution import Execution
from headrace.transaction import Transaction, transaction
from storefront.application import application

_EVENTS = """
    SELECT id, type, version, source, source_id, subject, lane, 0, time, created_at, data::text, traceparent
    FROM event_log ORDER BY id
"""

_DUE = "UPDATE jobs SET state = 'pending' WHERE state IN ('scheduled', 'retrying')"

_RELEASE = """
    UPDATE jobs SET state = 'queued', fence = fence + 1
    WHERE id = (SELECT id FROM jobs WHERE state = 'pending' ORDER BY id LIMIT 1)
    RETURNING id, fence, attempt + 1, max_attempts, task, queue, args::text, traceparent, created_at
"""


class Road:
    """Carries what is on record to those who react, when told to."""

    def __init__(self, record: Record, providers: Providers, driver: asyncpg.Connection[asyncpg.Record]) -> None:
        """Carry for the storefront."""
        self.record = record
        self._registry: Registry = combine([application])
        self._providers = providers
        self._driver = driver
        self._execution = Execution(self._registry.tasks, record, providers)
        self._delivered: set[UUID] = set()

    async def follow(self) -> None:
        """Deliver and run until nothing is left to do."""
        while await self.deliver() or await self.work():
            pass

    async def events(self) -> list[RecordedEvent]:
        """Return every event on record, in order."""
        return [RecordedEvent(*row) for row in await self._driver.fetch(_EVENTS)]

    async def deliver(self) -> int:
        """Deliver every event that was not delivered yet to all that listen; return how many there were."""
        fresh = [event for event in await self.events() if event.id not in self._delivered]
        for event in fresh:
            await self.redeliver(event)
        return len(fresh)

    async def redeliver(self, event: RecordedEvent) -> None:
        """Deliver one event to all subscribers, and to all projections if it is new."""
        for subscription in self._registry.subscriptions.values():
            if event.type not in subscription.types:
                continue
            if subscription.kind is Kind.SUBSCRIBER:
                await self._hand_over(subscription, event)
            elif event.id not in self._delivered:
                async with transaction(self.record) as tx:
                    await subscription.function(tx, [event])
        self._delivered.add(event.id)

    async def work(self) -> int:
        """Run every unfinished job until it is finished; return how many attempts that took."""
        attempts = 0
        while row := await self._next():
            attempts += 1
            (won,) = await claim(self._driver, [Claim(*row)], new_id())
            if outcome := await self._execution.execute(won):
                await settle(self._driver, [outcome])
        return attempts

    async def _next(self) -> asyncpg.Record | None:
        """Release the oldest job, however far off its time is."""
        await self._driver.execute(_DUE)
        return await self._driver.fetchrow(_RELEASE)

    async def _hand_over(self, subscription: Subscription, event: RecordedEvent) -> None:
        data: msgspec.Struct = msgspec.json.decode(event.data, type=self._registry.events[event.type].data_type)
        try:
            async with AsyncExitStack() as stack:

                async def begin() -> Transaction:
                    return await stack.enter_async_context(transaction(self.record))

                delivery = Delivery(subscription.name, event, attempt=1, providers=self._providers, begin=begin)
                await subscription.function(delivery, data)
        except AlreadyHandled:
            return


@asynccontextmanager
async def open_road(settings: Settings) -> AsyncIterator[Road]:
    """Open the road of a deployment with these settings."""
    async with AsyncExitStack() as stack:
        record = await stack.enter_async_context(open_record(settings))
        providers = await stack.enter_async_context(open_providers(application.providers, settings))
        driver = await asyncpg.connect(settings.database_url)
        stack.push_async_callback(driver.close)
        yield Road(record, providers, driver)
