"""Subscribers on the real road: once in effect, in order per key, and nothing held up by a failure."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from redis.asyncio import Redis
from sqlalchemy import text

from headrace.database.record import Record, open_record
from headrace.events.listing import list_subscriptions
from headrace.events.queries import DeliveryState, deliveries_of, event_by_id
from headrace.jobs.retry import PermanentError, Retry
from headrace.settings import Settings
from headrace.streams.append import RedisWriter
from headrace.streams.connection import command, open_commands
from headrace.streams.names import lane_key
from headrace.subscribers.contract import Subscription, subscriber
from headrace.subscribers.delivery import Delivery
from tests.lanes import (
    Forgotten,
    Thing,
    consuming,
    ends,
    entries,
    eventually,
    publish,
    put,
    registered,
    relaying,
    settings_of,
    settled,
)

NAME = "tests.notes"


class Road:
    """What a test sees of the road."""

    def __init__(
        self, record: Record, driver: asyncpg.Connection[asyncpg.Record], redis: Redis, settings: Settings
    ) -> None:
        self.record, self.driver, self.redis, self.settings = record, driver, redis, settings

    @asynccontextmanager
    async def open(self, *subscriptions: Subscription) -> AsyncIterator[None]:
        """Register the subscriptions, and run a relay and a consumer."""
        await registered(self.record, *subscriptions)
        async with relaying(self.settings), consuming(self.settings, *subscriptions):
            yield

    async def settled(self, events: int, name: str = NAME) -> None:
        """Wait until a subscription has settled that many events."""
        await eventually(lambda: settled(self.driver, name, events=events))

    async def notes(self) -> list[str]:
        """Return what the subscribers have written through their sessions."""
        return [row["note"] for row in await self.driver.fetch("SELECT note FROM notes ORDER BY place")]


@pytest.fixture
async def road(database_url: str, redis_url: str) -> AsyncIterator[Road]:
    """A road with a table for notes."""
    redis, driver = open_commands(redis_url), await asyncpg.connect(database_url)
    await driver.execute("CREATE TABLE notes (place bigserial, note text NOT NULL)")
    settings = settings_of(database_url, redis_url)
    async with open_record(settings) as record:
        yield Road(record, driver, redis, settings)
    await driver.close()
    await redis.aclose()


async def note(delivery: Delivery, words: str) -> None:
    """Write through the delivery's session."""
    tx = await delivery.begin()
    await tx.connection.execute(text("INSERT INTO notes (note) VALUES (:note)"), {"note": words})


@subscriber(NAME, Thing)
async def notes(delivery: Delivery, thing: Thing) -> None:
    """Note each thing."""
    await note(delivery, f"{thing.key}:{thing.number}")


@subscriber(NAME, Thing)
async def silent(delivery: Delivery, thing: Thing) -> None:
    """Do nothing with the session."""
    del delivery, thing


async def test_every_event_is_handled_once_and_in_order_when_all_is_well(road: Road) -> None:
    """Events of several keys are handled, each once, and those of a key in the order of their commits."""
    async with road.open(notes):
        await publish(road.record, [Thing(f"k{number % 5}", number) for number in range(60)])
        await road.settled(60)

    written = await road.notes()

    assert sorted(written) == sorted(f"k{number % 5}:{number}" for number in range(60))
    for key in range(5):
        assert [words for words in written if words.startswith(f"k{key}:")] == [
            f"k{key}:{number}" for number in range(key, 60, 5)
        ]
    assert await road.driver.fetchval("SELECT count(*) FROM inbox") == 60


async def test_inbox_knows_the_events_when_the_session_was_not_used(road: Road) -> None:
    """What a subscriber handles without a session is entered for it, in batches."""
    async with road.open(silent):
        await publish(road.record, [Thing("a", number) for number in range(10)])
        await road.settled(10)

    assert await road.driver.fetchval("SELECT count(*) FROM inbox WHERE subscription = $1", NAME) == 10


async def test_events_pass_when_nobody_listens_to_their_type(road: Road) -> None:
    """The checkpoint moves over what is not listened to, and the inbox does not know it."""
    async with road.open(silent):
        await publish(
            road.record,
            [
                Forgotten(
                    "a",
                ),
                Thing("a", 1),
                Forgotten("a"),
            ],
        )
        await road.settled(3)

    assert await road.driver.fetchval("SELECT count(*) FROM inbox") == 1


async def test_other_keys_go_on_when_one_is_slow(road: Road) -> None:
    """A key whose event takes long holds up its own events and no others."""
    released = asyncio.Event()

    @subscriber(NAME, Thing)
    async def patient(delivery: Delivery, thing: Thing) -> None:
        if thing.key == "slow" and thing.number == 0:
            await released.wait()
        await note(delivery, f"{thing.key}:{thing.number}")

    async with road.open(patient):
        await publish(road.record, [Thing("slow", 0), Thing("slow", 1), *(Thing(f"q{n}", n) for n in range(20))])
        await eventually(lambda: _count(road, 20))
        before = await road.notes()
        released.set()
        await road.settled(22)

    assert not any(words.startswith("slow") for words in before)
    assert (await road.notes())[-2:] == ["slow:0", "slow:1"]


async def _count(road: Road, count: int) -> bool:
    return len(await road.notes()) == count


async def test_delivery_becomes_a_job_when_it_fails(road: Road) -> None:
    """The failure is on record as the first attempt of a job that will try again; its key and the others go on."""

    @subscriber(NAME, Thing, retry=Retry(max_attempts=4, first_delay_seconds=60))
    async def failing(delivery: Delivery, thing: Thing) -> None:
        await note(delivery, f"{thing.key}:{thing.number}")
        if thing.number == 1:
            message = "not this one"
            raise ConnectionError(message)

    async with road.open(failing):
        await publish(road.record, [Thing("a", number) for number in range(3)])
        await road.settled(3)

    job = await road.driver.fetchrow("SELECT * FROM jobs JOIN deliveries ON job_id = id")
    attempt = await road.driver.fetchrow("SELECT * FROM job_attempts")
    assert await road.notes() == ["a:0", "a:2"]
    assert job is not None
    assert (job["task"], job["state"], job["attempt"], job["max_attempts"]) == ("headrace.deliver", "retrying", 1, 4)
    assert attempt is not None
    assert (attempt["type"], attempt["message"], attempt["outcome"]) == ("ConnectionError", "not this one", "failed")
    event = await event_by_id(road.record, job["event_id"])
    (status,) = await deliveries_of(road.record, event)
    assert (status.state, status.attempts, status.job_id) == (DeliveryState.RETRYING, 1, job["id"])
    assert status.last_error == "ConnectionError: not this one"


async def test_delivery_is_dead_when_no_attempt_can_help(road: Road) -> None:
    """A permanent error makes a dead job at once, with the reason, and is shown as such."""

    @subscriber(NAME, Thing)
    async def refusing(delivery: Delivery, thing: Thing) -> None:
        del delivery, thing
        message = "never"
        raise PermanentError(message)

    async with road.open(refusing):
        await publish(road.record, [Thing("a", 0)])
        await road.settled(1)

    (status,) = await list_subscriptions(road.record, limit=10)
    assert (status.dead, status.retrying, status.lag) == (1, 0, 0)


async def test_delivery_is_dead_when_the_data_do_not_fit_any_more(road: Road) -> None:
    """An event whose data this code cannot read is a dead delivery with the reason; the lane moves on."""
    await registered(road.record, notes)
    await publish(road.record, [Thing("a", 0), Thing("a", 1)])
    await road.driver.execute("""UPDATE event_log SET data = '{"key": 5}' WHERE (data ->> 'number')::int = 0""")
    async with road.open(notes):
        await road.settled(2)

    attempt = await road.driver.fetchrow("SELECT * FROM job_attempts JOIN jobs ON id = job_id")
    assert await road.notes() == ["a:1"]
    assert attempt is not None
    assert (attempt["state"], attempt["outcome"], attempt["type"]) == ("dead", "rejected", "UnreadableEventError")


async def test_delivery_becomes_a_job_when_it_takes_too_long(road: Road) -> None:
    """A subscriber that exceeds its timeout is cancelled, rolled back, and tried again as a job."""

    @subscriber(NAME, Thing, timeout_seconds=0.2)
    async def endless(delivery: Delivery, thing: Thing) -> None:
        await note(delivery, f"{thing.key}:{thing.number}")
        if thing.number == 0:
            await asyncio.Event().wait()

    async with road.open(endless):
        await publish(road.record, [Thing("a", 0), Thing("a", 1)])
        await road.settled(2)

    assert await road.notes() == ["a:1"]
    assert await road.driver.fetchval("SELECT outcome FROM job_attempts") == "timed_out"


async def test_entry_is_read_from_the_record_when_its_bytes_are_no_event(road: Road) -> None:
    """A damaged entry on the belt costs nothing: the record has the event."""
    await registered(road.record, notes)
    async with relaying(road.settings):
        await publish(road.record, [Thing("a", number) for number in range(3)])
        lane = await _lane(road, 3)
    held = await entries(road.redis, lane)
    await road.redis.delete(lane)
    for place, (identity, payload) in enumerate(held):
        await put(road.redis, lane, identity, b"\xc1 damaged" if place == 1 else payload)

    async with road.open(notes):
        await road.settled(3)

    assert await road.notes() == ["a:0", "a:1", "a:2"]


async def test_events_come_from_the_record_when_the_stream_has_holes(road: Road) -> None:
    """Positions that the stream does not hold, for whatever reason, are handled all the same, and in order."""
    await registered(road.record, notes)
    async with relaying(road.settings):
        await publish(road.record, [Thing("a", number) for number in range(8)])
        lane = await _lane(road, 8)
        await road.redis.xdel(lane, "1-0", "4-0", "5-0")
        async with consuming(road.settings, notes):
            await road.settled(8)

    assert await road.notes() == [f"a:{number}" for number in range(8)]


async def test_events_are_handled_when_somebody_else_took_them_from_the_group(road: Road) -> None:
    """A reader without a lease that takes entries away is noticed without any further traffic."""
    async with road.open(notes):
        await publish(road.record, [Thing("a", 0)])
        await road.settled(1)
        lane = await _lane(road, 1)
        thief = asyncio.create_task(_steal(road, lane))
        await asyncio.sleep(0)
        await publish(road.record, [Thing("a", number) for number in range(1, 6)])
        await road.settled(6)
        thief.cancel()

    assert await road.notes() == [f"a:{number}" for number in range(6)]


async def _steal(road: Road, lane: str) -> None:
    while True:
        await road.redis.xreadgroup(NAME, "thief", {lane: ">"}, count=1)


@pytest.mark.parametrize("fault", ["flush", "group", "stream", "string"])
async def test_nothing_is_lost_when_redis_loses_it_in_the_middle(road: Road, fault: str) -> None:
    """FLUSHALL, a deleted group, a deleted stream or a wrong-type key in mid-flow: each event once, in order."""
    async with road.open(notes):
        for part in range(4):
            await publish(road.record, [Thing("a", part * 25 + number) for number in range(25)])
            lane = await _lane(road)
            match fault:
                case "flush":
                    await road.redis.flushdb()
                case "group":
                    await command(road.redis, "XGROUP", "DESTROY", lane, NAME)
                case "stream":
                    await road.redis.delete(lane)
                case _:
                    await road.redis.set(lane, "not a stream")
        await road.settled(100)

    assert await road.notes() == [f"a:{number}" for number in range(100)]


async def _lane(road: Road, count: int = 0) -> str:
    """Return the key of the one lane that has events, once its stream has come to that position."""

    async def moved() -> bool:
        lane = await road.driver.fetchval("SELECT lane FROM lanes WHERE head > 0")
        return lane is not None and (count == 0 or (await ends(RedisWriter(road.redis), [lane]))[lane] == count)

    await eventually(moved)
    return lane_key(await road.driver.fetchval("SELECT lane FROM lanes WHERE head > 0"))


async def test_new_subscription_begins_at_the_present_when_it_is_first_seen(road: Road) -> None:
    """What was published before a subscription existed is not delivered to it; what came after its registration is."""
    async with relaying(road.settings):
        await publish(road.record, [Thing("a", 0)])
        await _lane(road, 1)
        await registered(road.record, notes)
        await publish(road.record, [Thing("a", 1)])
        async with consuming(road.settings, notes):
            await road.settled(2)

    assert await road.notes() == ["a:1"]


async def test_lanes_are_shared_when_a_second_consumer_comes(road: Road) -> None:
    """Two consumers own two lanes each, nothing is handled twice on the way, and one that stops hands over at once."""
    async with road.open(notes):
        await eventually(lambda: _owners(road, [4]))
        await publish(road.record, [Thing(f"k{number}", number) for number in range(40)])
        async with consuming(road.settings, notes):
            await eventually(lambda: _owners(road, [2, 2]))
            await publish(road.record, [Thing(f"k{number}", number) for number in range(40, 80)])
        await eventually(lambda: _owners(road, [4]))
        await publish(road.record, [Thing(f"k{number}", number) for number in range(80, 120)])
        await road.settled(120)

    assert sorted(await road.notes()) == sorted(f"k{number}:{number}" for number in range(120))


async def _owners(road: Road, expected: list[int]) -> bool:
    rows = await road.driver.fetch(
        "SELECT count(*) AS n FROM leases WHERE name LIKE 'sub:%' AND expires_at > now() GROUP BY holder"
    )
    return sorted(row["n"] for row in rows) == expected


async def test_reading_rests_when_the_subscription_is_paused(road: Road) -> None:
    """A paused subscription keeps its place and goes on from it."""
    async with road.open(notes):
        await eventually(lambda: _owners(road, [4]))
        await road.driver.execute("UPDATE subscriptions SET paused = true")
        await eventually(lambda: _owners(road, []))
        await publish(road.record, [Thing("a", 0)])
        await _lane(road, 1)
        before = await road.notes()
        await road.driver.execute("UPDATE subscriptions SET paused = false")
        await road.settled(1)

    assert before == []
    assert await road.notes() == ["a:0"]


async def test_process_goes_on_when_a_subscriber_wants_to_exit(road: Road) -> None:
    """A subscriber that calls exit() fails its delivery and not the process."""

    @subscriber(NAME, Thing, retry=Retry(first_delay_seconds=60))
    async def leaving(delivery: Delivery, thing: Thing) -> None:
        if thing.number == 0:
            sys.exit(3)
        await note(delivery, f"{thing.key}:{thing.number}")

    async with road.open(leaving):
        await publish(road.record, [Thing("a", 0), Thing("a", 1)])
        await road.settled(2)

    assert await road.notes() == ["a:1"]
    assert await road.driver.fetchval("SELECT type FROM job_attempts") == "SystemExit"
