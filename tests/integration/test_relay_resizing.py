"""The number of lanes changes under traffic, and no key overtakes itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import asyncpg
import msgspec
import pytest

from headrace.clock import new_id
from headrace.database.record import Record, open_record
from headrace.events.lane import Stretch, stretches
from headrace.leases import Fence, Leases
from headrace.relay.position import place
from headrace.relay.resizing import FIRST_PATIENCE_SECONDS, Resizing
from headrace.settings import Settings
from headrace.subscribers.contract import subscriber
from headrace.subscribers.delivery import Delivery
from tests.lanes import Thing, consuming, eventually, heads, publish, registered, relaying, settings_of

NAME = "tests.order"
HEARD: list[tuple[str, int]] = []


@subscriber(NAME, Thing)
async def heard(delivery: Delivery, thing: Thing) -> None:
    """Note the thing in this process."""
    del delivery
    HEARD.append((thing.key, thing.number))


@pytest.fixture
async def record(database_url: str) -> AsyncIterator[Record]:
    """A record with one subscription."""
    HEARD.clear()
    async with open_record(Settings(database_url=database_url)) as opened:
        await registered(opened, heard)
        yield opened


@pytest.fixture
async def driver(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection of the relay."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def fence(record: Record) -> Fence:
    """The fence of a leader."""
    return (await Leases(record.engine, new_id(), seconds=60).take(["relay"]))["relay"]


def resized(settings: Settings, lanes: int) -> Settings:
    """Return the settings of a relay that wants so many lanes."""
    return msgspec.structs.replace(settings, lanes=lanes)


async def change(driver: asyncpg.Connection[asyncpg.Record], fence: Fence, lanes: int) -> None:
    """Take the steps of a change that nobody is in the way of."""
    resizing = Resizing(driver, fence, wanted=lanes)
    for _ in range(3):
        await resizing.step()


async def test_keys_keep_their_order_when_lanes_change_under_traffic(
    record: Record, driver: asyncpg.Connection[asyncpg.Record], database_url: str, redis_url: str
) -> None:
    """From four lanes to eight to two, with events published all the time: each is handled once, each key in order."""
    settings = settings_of(database_url, redis_url)
    numbers = iter(range(100_000))
    ended = asyncio.Event()

    async def traffic() -> int:
        published = 0
        while not ended.is_set():
            await publish(record, [Thing(f"k{published % 23}", next(numbers))])
            published += 1
        return published

    async with consuming(settings, heard):
        writing = asyncio.create_task(traffic())
        for lanes in (8, 2):
            async with relaying(resized(settings, lanes)):
                await eventually(partial(_has_lanes, driver, lanes))
                await eventually(partial(_more_than, len(HEARD) + 100))
        ended.set()
        published = await writing
        async with relaying(settings):
            await eventually(lambda: _more_than(published - 1))

    by_key: dict[str, list[int]] = {}
    for key, number in HEARD:
        by_key.setdefault(key, []).append(number)
    assert by_key == {f"k{key}": list(range(key, published, 23)) for key in range(23)}
    assert await driver.fetchval("SELECT count(*) FROM lane_resize") == 0


async def _has_lanes(driver: asyncpg.Connection[asyncpg.Record], count: int) -> bool:
    return set(await heads(driver)) == set(range(count))


async def _more_than(count: int) -> bool:
    return len(HEARD) > count


async def test_reason_is_on_record_when_a_subscription_is_in_the_way(
    record: Record, driver: asyncpg.Connection[asyncpg.Record], fence: Fence
) -> None:
    """A subscription that is paused stops the change, and is named; events get their positions all the same."""
    await driver.execute("UPDATE subscriptions SET paused = true")
    await publish(record, [Thing("a", 1)])
    await place(driver, fence)
    resizing = Resizing(driver, fence, wanted=8)

    may_place = await resizing.step()
    (asked,) = await driver.fetch("SELECT wanted, held_by FROM lane_resize")

    (held,) = msgspec.json.decode(asked["held_by"])
    assert may_place
    assert asked["wanted"] == 8
    assert (held["subscription"], held["events"], held["stuck"]) == (NAME, 1, "it is paused")
    assert len(await heads(driver)) == 4


async def test_placing_goes_on_when_the_patience_is_over(
    record: Record, driver: asyncpg.Connection[asyncpg.Record], fence: Fence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Placing rests while a subscription comes nearer, but not for ever."""
    await publish(record, [Thing("a", 1)])
    await place(driver, fence)
    await driver.execute("INSERT INTO leases (name, expires_at) SELECT 'sub:' || $1 || ':' || n, 'infinity' "
                         "FROM generate_series(0, 3) n", NAME)  # fmt: skip
    resizing = Resizing(driver, fence, wanted=8)
    moment = 1000.0
    monkeypatch.setattr("headrace.relay.resizing.time.monotonic", lambda: moment)

    rests = [await resizing.step()]
    moment += FIRST_PATIENCE_SECONDS + 1
    rests.append(await resizing.step())

    assert rests == [False, True]


async def test_lane_goes_on_from_its_head_when_it_comes_back(
    record: Record, driver: asyncpg.Connection[asyncpg.Record], fence: Fence
) -> None:
    """A lane that was given up and is wanted again continues its positions; the stretches tell its whole story."""
    await publish(record, [Thing(f"k{number}", number) for number in range(40)])
    placed = await place(driver, fence)
    before = await heads(driver)
    await driver.execute("UPDATE checkpoints SET position = (SELECT head FROM lanes WHERE lane = checkpoints.lane)")

    await change(driver, fence, 2)
    await change(driver, fence, 4)

    assert len(placed) == 4
    assert await heads(driver) == before
    assert dict(await driver.fetch("SELECT lane, position FROM checkpoints")) == before
    assert await stretches(driver) == [
        *(Stretch(1, lane, 0, before[lane]) for lane in range(4)),
        *(Stretch(2, lane, before[lane], before[lane]) for lane in range(2)),
        *(Stretch(3, lane, before[lane], before[lane]) for lane in range(4)),
    ]


async def test_nothing_changes_when_the_lease_is_anothers(
    driver: asyncpg.Connection[asyncpg.Record], fence: Fence
) -> None:
    """A relay that was paused and wakes up late leaves the lanes alone."""
    await driver.execute("UPDATE leases SET epoch = epoch + 1")

    await change(driver, fence, 8)

    assert len(await heads(driver)) == 4


async def test_nothing_changes_as_long_as_somebody_has_a_lane(
    driver: asyncpg.Connection[asyncpg.Record], fence: Fence
) -> None:
    """Whoever has a lane knows what is held on it: all are given back before the keys get other lanes."""
    await driver.execute("INSERT INTO leases (name, expires_at) VALUES ('sub:tests.order:0', 'infinity')")

    await change(driver, fence, 8)
    before = len(await heads(driver))
    await driver.execute("UPDATE leases SET expires_at = '-infinity' WHERE name LIKE 'sub:%'")
    await change(driver, fence, 8)

    assert (before, len(await heads(driver))) == (4, 8)
