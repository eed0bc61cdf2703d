"""What the record tells of events and subscriptions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import asyncpg
import msgspec
import pytest

from headrace.clock import new_id, now
from headrace.database.record import Record, open_record
from headrace.errors import NotFoundError
from headrace.events.listing import list_subscriptions
from headrace.events.model import RecordedEvent
from headrace.events.queries import DeliveryState, EventFilter, deliveries_of, event_by_id, history_of, list_events
from headrace.leases import Leases
from headrace.relay.position import place
from headrace.settings import Settings
from headrace.subscribers.contract import projection, subscriber
from headrace.subscribers.delivery import Delivery
from headrace.transaction import Transaction
from tests.lanes import Forgotten, Thing, publish, registered


@subscriber("tests.notes", Thing)
async def notes(delivery: Delivery, thing: Thing) -> None:
    """Do nothing."""
    del delivery, thing


@projection("tests.counts", Thing, Forgotten)
async def counts(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
    """Do nothing."""
    del tx, events


class Road:
    """A record with two subscriptions and what was published to it."""

    def __init__(self, record: Record, driver: asyncpg.Connection[asyncpg.Record]) -> None:
        self.record, self.driver = record, driver

    async def place(self) -> None:
        """Give the published events their positions."""
        fence = (await Leases(self.record.engine, new_id(), seconds=0).take(["relay"]))["relay"]
        await self.driver.execute("UPDATE leases SET expires_at = 'infinity'")
        await place(self.driver, fence)
        await self.driver.execute("UPDATE leases SET expires_at = '-infinity'")

    async def states(self) -> dict[str, DeliveryState]:
        """Return how the newest event stands with each subscription."""
        (event,) = await list_events(self.record, EventFilter(), limit=1)
        return {status.subscription: status.state for status in await deliveries_of(self.record, event)}


@pytest.fixture
async def road(database_url: str) -> AsyncIterator[Road]:
    """A record with two subscriptions."""
    driver = await asyncpg.connect(database_url)
    async with open_record(Settings(database_url=database_url)) as record:
        await registered(record, notes, counts)
        yield Road(record, driver)
    await driver.close()


async def test_event_is_told_whole_when_it_is_asked_for(road: Road) -> None:
    """Data are the JSON on record; lane and position are those of the lane log."""
    await publish(road.record, [Thing("a", 7)])
    await road.place()
    (listed,) = await list_events(road.record, EventFilter(), limit=10)

    event = await event_by_id(road.record, listed.id)

    assert event == listed
    assert (event.type, event.subject, event.position) == ("tests.thing.happened", "a", 1)
    assert msgspec.json.decode(event.data) == {"key": "a", "number": 7}


async def test_event_is_not_found_when_there_is_none(road: Road) -> None:
    """An unknown id is told as such."""
    with pytest.raises(NotFoundError):
        await event_by_id(road.record, new_id())


async def test_delivery_is_pending_when_the_relay_has_not_placed_it(road: Road) -> None:
    """An accepted event is shown with everyone who will be given it, from the first moment."""
    await publish(road.record, [Thing("a", 7)])

    assert await road.states() == {"tests.counts": DeliveryState.PENDING, "tests.notes": DeliveryState.PENDING}


async def test_delivery_is_handled_when_inbox_or_checkpoint_say_so(road: Road) -> None:
    """A subscriber's delivery is handled by its inbox row, a projection's by its checkpoint."""
    await publish(road.record, [Thing("a", 7)])
    await road.place()
    await road.driver.execute("INSERT INTO inbox (subscription, event_id) SELECT 'tests.notes', id FROM event_log")
    await road.driver.execute("UPDATE checkpoints SET position = 1 WHERE subscription = 'tests.counts'")

    assert await road.states() == {"tests.counts": DeliveryState.HANDLED, "tests.notes": DeliveryState.HANDLED}


async def test_delivery_is_skipped_when_the_checkpoint_passed_without_it(road: Road) -> None:
    """An event that was there before its subscriber came is nobody's pending work."""
    await publish(road.record, [Thing("a", 7)])
    await road.place()
    await road.driver.execute("UPDATE checkpoints SET position = 1")

    assert (await road.states())["tests.notes"] is DeliveryState.SKIPPED


async def test_delivery_is_retrying_when_its_projection_waits_at_it(road: Road) -> None:
    """The event at which a projection fails is shown with the reason."""
    await publish(road.record, [Thing("a", 7)])
    await road.place()
    await road.driver.execute("UPDATE checkpoints SET last_error = 'no column', failing_since = now()")

    assert (await road.states())["tests.counts"] is DeliveryState.RETRYING


async def test_delivery_is_left_out_when_nobody_listens_to_the_type(road: Road) -> None:
    """Only those who listen to an event's type are shown."""
    await publish(road.record, [Forgotten("a")])

    assert set(await road.states()) == {"tests.counts"}


async def test_events_are_filtered_when_asked(road: Road) -> None:
    """By pattern of type, subject, time and place in the list; newest first."""
    await publish(road.record, [Thing("a", 1), Forgotten("a"), Thing("b", 2), Thing("b", 3)])

    async def numbers(chosen: EventFilter, *, limit: int = 10) -> list[int]:
        found = await list_events(road.record, chosen, limit=limit)
        return [msgspec.json.decode(event.data).get("number", 0) for event in found]

    assert await numbers(EventFilter()) == [3, 2, 0, 1]
    assert await numbers(EventFilter(type="tests.*")) == [3, 2, 0, 1]
    assert await numbers(EventFilter(type="*.happened", subject="b")) == [3, 2]
    assert await numbers(EventFilter(type="tests.thing_happened")) == []
    assert await numbers(EventFilter(from_time=now() + timedelta(hours=1))) == []
    newest = (await list_events(road.record, EventFilter(), limit=2))[-1]
    older = await list_events(road.record, EventFilter(), limit=10, before=newest.id)
    assert [msgspec.json.decode(event.data).get("number", 0) for event in older] == [0, 1]


async def test_history_is_in_order_when_a_subject_is_folded(road: Road) -> None:
    """All events of the subject, oldest first; none after the time asked for."""
    await publish(road.record, [Thing("a", 1), Thing("b", 2), Thing("a", 3)])
    async with road.record.engine.connect() as connection:
        whole = await history_of(connection, "a")
        until = await history_of(connection, "a", until=whole[0].time)

    assert [msgspec.json.decode(event.data)["number"] for event in whole] == [1, 3]
    assert until == whole[:1]


async def test_subscription_tells_its_lag_when_events_wait(road: Road) -> None:
    """Lag is heads minus checkpoints; the lanes tell owner, position and head; a page follows a name."""
    await publish(road.record, [Thing("a", 1), Thing("a", 2)])
    await road.place()
    holder = new_id()
    lane = await road.driver.fetchval("SELECT lane FROM lanes WHERE head > 0")
    await Leases(road.record.engine, holder, seconds=60).take([f"sub:tests.counts:{lane}"])

    first, second = await list_subscriptions(road.record, limit=10)
    (after,) = await list_subscriptions(road.record, limit=10, after="tests.counts")

    assert (first.name, first.kind, first.lag, first.paused) == ("tests.counts", "projection", 2, False)
    assert first.oldest_unhandled_age_seconds is not None
    assert [(one.lane, one.owner, one.position, one.head) for one in first.lanes if one.head] == [(lane, holder, 0, 2)]
    assert len(first.lanes) == 4
    assert (second.name, second.lag) == (after.name, after.lag) == ("tests.notes", 2)
