"""Whatever happens to Redis is noticed by itself within two seconds, mended from the record, and counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager

import asyncpg
import pytest
from redis.asyncio import Redis
from sqlalchemy import text

from headrace.database.mends import Mend
from headrace.database.record import Record, open_record
from headrace.settings import Settings
from headrace.streams.connection import command, open_commands
from headrace.streams.names import lane_key
from headrace.subscribers.contract import subscriber
from headrace.subscribers.delivery import Delivery
from tests.lanes import (
    Thing,
    consuming,
    entries,
    eventually,
    heads,
    positions,
    publish,
    put,
    registered,
    relaying,
    settings_of,
    settled,
)

NAME = "tests.notes"
KEYS = [f"k{number}" for number in range(12)]
NOTICED_SECONDS = 4.0
"""An idle machine takes less than two; a busy one gets twice that."""


@subscriber(NAME, Thing)
async def notes(delivery: Delivery, thing: Thing) -> None:
    """Note each thing, and which attempt this is."""
    tx = await delivery.begin()
    row = {"key": thing.key, "number": thing.number, "attempt": delivery.attempt}
    await tx.connection.execute(text("INSERT INTO notes (key, number, attempt) VALUES (:key, :number, :attempt)"), row)


class Road:
    """The road of a test, and what it sees of it."""

    def __init__(
        self, record: Record, driver: asyncpg.Connection[asyncpg.Record], redis: Redis, settings: Settings
    ) -> None:
        self.record, self.driver, self.redis, self.settings = record, driver, redis, settings
        self.copies: dict[str, bytes] = {}
        self._published = 0

    async def publish(self, rounds: int = 1, keys: list[str] | None = None) -> None:
        """Publish for each key, in turns."""
        chosen = KEYS if keys is None else keys
        for _ in range(rounds):
            await publish(self.record, [Thing(key, self._published + place) for place, key in enumerate(chosen)])
            self._published += len(chosen)

    async def settled(self) -> None:
        """Wait until all that was published is settled."""
        await eventually(lambda: settled(self.driver, NAME, events=self._published))

    async def lane(self) -> int:
        """Return a lane that has events."""
        lane: int = await self.driver.fetchval("SELECT lane FROM lanes WHERE head > 0 ORDER BY lane LIMIT 1")
        return lane

    async def mended(self, reason: Mend, lanes: Collection[int] = range(4)) -> bool:
        """Tell whether such a mend is counted, these streams end where their lanes do, and have their group."""
        if not await self.driver.fetchval("SELECT times FROM belt_mends WHERE reason = $1", reason.value):
            return False
        found = {lane: head for lane, head in (await heads(self.driver)).items() if head and lane in lanes}
        return all([await self._is_whole(lane, head) for lane, head in found.items()])

    async def expect_each_once(self) -> None:
        """Assert that every event was handled once, at its first attempt, those of a key in their order."""
        rows = await self.driver.fetch("SELECT key, number, attempt FROM notes ORDER BY place")
        for key in {row["key"] for row in rows}:
            numbers = [row["number"] for row in rows if row["key"] == key]
            assert numbers == sorted(set(numbers)), key
        assert len(rows) == self._published
        assert {row["attempt"] for row in rows} == {1}

    async def _is_whole(self, lane: int, head: int) -> bool:
        key = lane_key(lane)
        if await self.redis.type(key) != b"stream":
            return False
        groups = {group["name"]: group["last-delivered-id"] for group in await self.redis.xinfo_groups(key)}
        end = (await self.redis.xinfo_stream(key))["last-generated-id"]
        at = int(groups.get(NAME.encode(), b"0-0").partition(b"-")[0])
        return end == b"%d-0" % head and NAME.encode() in groups and at <= head


@asynccontextmanager
async def opened(database_url: str, redis_url: str, settings: Settings | None = None) -> AsyncIterator[Road]:
    """Open a road with a table for notes; nothing runs yet."""
    redis, driver = open_commands(redis_url), await asyncpg.connect(database_url)
    await driver.execute("CREATE TABLE notes (place bigserial, key text, number int, attempt int)")
    settings = settings or settings_of(database_url, redis_url)
    async with open_record(settings) as record:
        await registered(record, notes)
        yield Road(record, driver, redis, settings)
    await driver.close()
    await redis.aclose()


@pytest.fixture
async def road(database_url: str, redis_url: str) -> AsyncIterator[Road]:
    """A road of this test's own."""
    async with opened(database_url, redis_url) as road:
        yield road


async def flush(road: Road) -> None:
    """Lose everything."""
    await road.redis.flushdb()


async def delete_one_lane(road: Road) -> None:
    """Lose one stream of several."""
    await road.redis.delete(lane_key(await road.lane()))


async def put_a_string_there(road: Road) -> None:
    """Let another kind of key stand where a stream should be."""
    await road.redis.set(lane_key(await road.lane()), "not a stream")


async def destroy_the_group(road: Road) -> None:
    """Lose a group."""
    await command(road.redis, "XGROUP", "DESTROY", lane_key(await road.lane()), NAME)


async def move_the_group_ahead(road: Road) -> None:
    """Let a group pass over what is to come."""
    await command(road.redis, "XGROUP", "SETID", lane_key(await road.lane()), NAME, "900-0")


async def move_the_stream_ahead(road: Road) -> None:
    """Let a stream say that it ends further on."""
    await command(road.redis, "XSETID", lane_key(await road.lane()), "900-0")


async def write_as_a_stranger(road: Road) -> None:
    """Append an entry that no relay wrote."""
    await road.redis.xadd(lane_key(await road.lane()), {"hello": "world"})


async def forge_the_next(road: Road) -> None:
    """Append bytes at the very position that comes next."""
    lane = await road.lane()
    await put(road.redis, lane_key(lane), f"{(await heads(road.driver))[lane] + 1}-0", b"\xc1 forged")


async def bring_back_an_older_copy(road: Road) -> None:
    """Restore what was there before the last events, groups and all."""
    for key, copy in road.copies.items():
        await road.redis.restore(key, 0, copy, replace=True)


MISCHIEF = [
    (flush, Mend.STREAM_MISSING),
    (delete_one_lane, Mend.STREAM_MISSING),
    (put_a_string_there, Mend.WRONG_TYPE),
    (destroy_the_group, Mend.GROUP_MISSING),
    (move_the_group_ahead, Mend.GROUP_AHEAD),
    (move_the_stream_ahead, Mend.STREAM_AHEAD),
    (write_as_a_stranger, Mend.STREAM_AHEAD),
    (forge_the_next, Mend.STREAM_AHEAD),
    (bring_back_an_older_copy, Mend.STREAM_BEHIND),
]


@pytest.mark.parametrize(("mischief", "reason"), MISCHIEF)
async def test_belt_is_mended_by_itself_when_nobody_writes(
    road: Road, mischief: Callable[[Road], Awaitable[None]], reason: Mend
) -> None:
    """Idle, it takes no event to notice; what comes afterwards is handled once and in order."""
    async with relaying(road.settings), consuming(road.settings, notes):
        await road.publish(rounds=2)
        await road.settled()
        for lane, head in (await heads(road.driver)).items():
            if head:
                road.copies[lane_key(lane)] = await command(road.redis, "DUMP", lane_key(lane))
        await road.publish()
        await road.settled()

        await mischief(road)
        await eventually(lambda: road.mended(reason), within_seconds=NOTICED_SECONDS)
        await road.publish(rounds=2)
        await road.settled()

    await road.expect_each_once()


async def test_lost_lane_is_mended_when_only_others_have_traffic(road: Road) -> None:
    """A busy lane keeps neither relay nor consumer from looking after the others."""
    async with relaying(road.settings), consuming(road.settings, notes):
        await road.publish()
        await road.settled()
        lost = await road.lane()
        busy = await _subjects_beside(road, lost)
        traffic = asyncio.create_task(road.publish(rounds=10_000, keys=busy[:1]))
        await road.redis.delete(lane_key(lost))

        await eventually(lambda: road.mended(Mend.STREAM_MISSING, [lost]), within_seconds=NOTICED_SECONDS)
        traffic.cancel()


async def _subjects_beside(road: Road, lane: int) -> list[str]:
    rows = await road.driver.fetch(
        "SELECT DISTINCT subject FROM event_log JOIN lane_log ON event_id = id WHERE lane_log.lane <> $1", lane
    )
    return [row["subject"] for row in rows]


async def test_events_are_handled_when_the_tail_of_the_stream_is_gone(road: Road) -> None:
    """The stream says that it ends where it should, and does not have it: the record is asked, by itself."""
    async with relaying(road.settings):
        await road.publish(rounds=3)
        await eventually(lambda: _placed(road))
        lane = await road.lane()
        await eventually(lambda: _has_all(road, lane))
        held = await positions(road.redis, lane)
        await road.redis.xdel(lane_key(lane), *(f"{position}-0" for position in held[2:]))

        async with consuming(road.settings, notes):
            await road.settled()

    await road.expect_each_once()
    assert await road.driver.fetchval("SELECT entries FROM belt_mends WHERE reason = 'entries_missing'") > 0


async def _placed(road: Road) -> bool:
    return not await road.driver.fetchval("SELECT count(*) FROM outbox")


async def _has_all(road: Road, lane: int) -> bool:
    return len(await entries(road.redis, lane_key(lane))) == (await heads(road.driver))[lane]
