"""Patterns, filters and versions on the real road: what a subscription is given, and what becomes of the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import msgspec
import pytest

from headrace.application import Application, combine
from headrace.clock import new_id, now
from headrace.database.record import Record, open_record
from headrace.events.model import NewEvent, RecordedEvent
from headrace.events.queries import DeliveryState, EventFilter, deliveries_of, list_events
from headrace.events.reading import data_of
from headrace.events.registry import event, upcast
from headrace.jobs.model import Claim, Outcome
from headrace.jobs.retry import Retry
from headrace.providers import Providers
from headrace.settings import Settings
from headrace.subscribers.contract import Subscription, projection, subscriber
from headrace.subscribers.delivery import Delivery
from headrace.subscribers.failures import DELIVER
from headrace.subscribers.process import consume
from headrace.subscribers.redelivery import Redelivery
from headrace.tasks.execution import Execution
from headrace.transaction import Transaction, transaction
from tests.conftest import MIGRATIONS
from tests.lanes import (
    Forgotten,
    Thing,
    consuming,
    eventually,
    publish,
    registered,
    registry_of,
    relaying,
    running,
    settings_of,
    settled,
)

LARGE = {"number": [{"numeric": [">=", 2]}]}
SEEN: list[tuple[str, object]] = []


@pytest.fixture(autouse=True)
def seen() -> list[tuple[str, object]]:
    """What the subscriptions below were given, by name."""
    SEEN.clear()
    return SEEN


@subscriber("tests.large", "tests.*", where=LARGE)
async def large(delivery: Delivery, data: Any) -> None:  # noqa: ANN401 - of whatever type meets the pattern
    """Note what is large."""
    SEEN.append((delivery.subscription, data))


@subscriber("tests.forgetful", "*.forgotten")
async def forgetful(delivery: Delivery, data: Any) -> None:  # noqa: ANN401 - the same
    """Note what is forgotten."""
    SEEN.append((delivery.subscription, data))


@projection("tests.sums", "tests.thing.*", where=LARGE)
async def sums(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
    """Note what is large, in batches."""
    del tx
    SEEN.extend(("tests.sums", data_of(Thing, event)) for event in events)


@subscriber("tests.once", "tests.*", where=LARGE, retry=Retry(max_attempts=1, on=()))
async def once(delivery: Delivery, data: Any) -> None:  # noqa: ANN401 - the same
    """Note it; nothing is ever tried again."""
    SEEN.append((delivery.subscription, data))


class Road:
    """The stores of one test."""

    def __init__(self, record: Record, driver: asyncpg.Connection[asyncpg.Record], settings: Settings) -> None:
        self.record, self.driver, self.settings = record, driver, settings

    async def states(self) -> dict[str, dict[str, DeliveryState]]:
        """Return how each event, by its data, stands with each subscription."""
        events = await list_events(self.record, EventFilter(), limit=50)
        return {
            bytes(one.data).decode(): {
                status.subscription: status.state for status in await deliveries_of(self.record, one)
            }
            for one in events
        }

    async def publish_as(self, version: int, data: str, event_type: str = "tests.thing.happened") -> None:
        """Publish an event as other code would."""
        identity = new_id()
        given = NewEvent(
            id=identity,
            type=event_type,
            version=version,
            source="/tests",
            source_id=str(identity),
            subject="a",
            time=now(),
            data=msgspec.Raw(data.encode()),
        )
        async with transaction(self.record) as tx:
            await tx.publish_events([given])

    async def redelivered(self, subscription: Subscription) -> Outcome | None:
        """Run the one waiting delivery in a worker that has this subscription."""
        for state, former in (("pending", "retrying"), ("queued", "pending")):
            await self.driver.execute(f"UPDATE jobs SET state = '{state}' WHERE state = '{former}'")  # noqa: S608 - ours
        row = await self.driver.fetchrow(
            """UPDATE jobs SET state = 'running', attempt = attempt + 1, fence = fence + 1, started_at = now()
               RETURNING id, fence, attempt, max_attempts, task, queue, args::text, traceparent, created_at"""
        )
        assert row is not None
        tasks = {DELIVER: Redelivery({subscription.name: subscription})}
        return await Execution(tasks, self.record, Providers({})).execute(Claim(*row))


@pytest.fixture
async def road(database_url: str, redis_url: str) -> AsyncIterator[Road]:
    """A record, and where the relay and the consumers of a test find it."""
    settings = settings_of(database_url, redis_url)
    driver = await asyncpg.connect(database_url)
    async with open_record(settings) as record:
        yield Road(record, driver, settings)
    await driver.close()


async def test_subscriptions_are_given_what_their_patterns_and_filters_mean(
    road: Road, seen: list[tuple[str, object]]
) -> None:
    """Each by its declared type; what a filter leaves out is skipped, of other types there is no delivery at all."""
    await registered(road.record, large, forgetful, sums)
    await publish(road.record, [Thing("a", 1), Thing("a", 2), Forgotten("a"), Thing("b", 3)])

    async with relaying(road.settings), consuming(road.settings, large, forgetful, sums):
        for subscription in (large, forgetful, sums):
            name = subscription.name
            await eventually(lambda name=name: settled(road.driver, name, events=4))  # type: ignore[misc] # bound now

    assert sorted(seen, key=str) == sorted(
        [
            ("tests.large", Thing("a", 2)),
            ("tests.large", Thing("b", 3)),
            ("tests.forgetful", Forgotten("a")),
            ("tests.sums", Thing("a", 2)),
            ("tests.sums", Thing("b", 3)),
        ],
        key=str,
    )
    handled, skipped = DeliveryState.HANDLED, DeliveryState.SKIPPED
    assert await road.states() == {
        '{"key": "a", "number": 1}': {"tests.large": skipped, "tests.sums": skipped},
        '{"key": "a", "number": 2}': {"tests.large": handled, "tests.sums": handled},
        '{"key": "b", "number": 3}': {"tests.large": handled, "tests.sums": handled},
        '{"key": "a"}': {"tests.large": skipped, "tests.forgetful": handled, "tests.sums": skipped},
    }


async def test_patterns_and_filter_are_on_record_as_they_are_declared(road: Road) -> None:
    """What a process of other code, or a person, asks of the record."""
    await registered(road.record, large)
    await registered(road.record, subscriber("tests.large", "tests.*", Forgotten)(large.function))

    row = await road.driver.fetchrow("SELECT types, filter FROM subscriptions")

    assert row is not None
    assert (row["types"], row["filter"]) == (["tests.*", "tests.thing.forgotten"], None)


@pytest.mark.parametrize(
    ("version", "event_type", "told"),
    [
        (2, "tests.thing.happened", "published at version 2, and this code knows version 1"),
        (1, "tests.thing.moved", "does not know the event type tests.thing.moved"),
    ],
)
async def test_delivery_waits_when_only_newer_code_can_read_the_event(
    road: Road, version: int, event_type: str, told: str
) -> None:
    """Its lane goes on, its job waits with the reason, whatever the retry policy; no attempt is burned by waiting."""
    await registered(road.record, once)
    await road.publish_as(version, '{"key": "a", "amount": 9}', event_type)
    await publish(road.record, [Thing("a", 7)])

    async with relaying(road.settings), consuming(road.settings, once):
        await eventually(lambda: settled(road.driver, once.name, events=2))
    outcome = await road.redelivered(registry_of(once).subscriptions[once.name])

    newest, waiting = [
        (await deliveries_of(road.record, one))[0] for one in await list_events(road.record, EventFilter(), limit=2)
    ]
    assert newest.state is DeliveryState.HANDLED
    assert outcome is not None
    assert (outcome.state.value, outcome.delay_seconds) == ("scheduled", 30.0)
    assert (waiting.state, waiting.job_id is not None) == (DeliveryState.RETRYING, True)
    assert told in str(waiting.last_error)


@event("tests.thing.happened", subject="key", version=2)
class NewThing(msgspec.Struct, frozen=True):
    """The same thing in newer code."""

    key: str
    amount: int


@upcast(NewThing, from_version=1)
def rename_number(data: dict[str, Any]) -> dict[str, Any]:
    """A thing's number became its amount."""
    return {"key": data["key"], "amount": data["number"]}


@pytest.mark.parametrize(("amount", "handled"), [(9, True), (1, False)])
async def test_delivery_is_handled_when_the_newer_code_is_there(
    road: Road, seen: list[tuple[str, object]], amount: int, *, handled: bool
) -> None:
    """The job that waited is run by the newer code, which asks the filter as well."""
    await registered(road.record, once)
    await road.publish_as(2, f'{{"key": "a", "amount": {amount}}}')
    async with relaying(road.settings), consuming(road.settings, once):
        await eventually(lambda: settled(road.driver, once.name, events=1))
    newer = subscriber("tests.once", NewThing, where={"amount": [{"numeric": [">=", 2]}]})(once.function)

    outcome = await road.redelivered(newer)

    assert seen == ([("tests.once", NewThing("a", 9))] if handled else [])
    if not handled:
        assert outcome is not None
        assert "passed over" in str(outcome.result)


async def test_newer_code_reads_what_older_code_published(road: Road, seen: list[tuple[str, object]]) -> None:
    """Function and filter are given the data of the present version."""
    newer = subscriber("tests.newer", NewThing, where={"amount": [{"numeric": [">=", 2]}]})(once.function)
    older = Thing("a", 1), Thing("a", 5)
    await registered(road.record, newer)
    await publish(road.record, older)

    registry = combine(
        [Application(name="tests", events=(NewThing,), subscriptions=(newer,), migrations=MIGRATIONS[0])]
    )
    async with relaying(road.settings), running(lambda stop: consume(road.settings, registry, stop)):
        await eventually(lambda: settled(road.driver, newer.name, events=2))

    assert seen == [("tests.newer", NewThing("a", 5))]
