"""What live tails rest on: the log read across a change of its lanes, and announcements only while somebody listens."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from functools import partial

import msgspec
from redis.asyncio import Redis

from headrace.clock import new_id, now, seconds_from_now
from headrace.database.record import Record
from headrace.events.model import RecordedEvent
from headrace.live.announcing import _MOST_BYTES, Announcer, channel_of, read_announcements
from headrace.live.log import Log, open_log
from headrace.live.marks import Marks
from headrace.settings import Settings
from tests.lanes import Thing, eventually, publish, relaying

KEYS = 8


async def read_all(log: Log, marks: Marks) -> list[RecordedEvent]:
    """Return everything after the marks."""
    events: list[RecordedEvent] = []
    while (portion := await log.read(marks)) is not None:
        assert not portion.missed
        events += portion.events
        marks = portion.marks
    return events


async def test_no_key_overtakes_itself_when_the_number_of_lanes_has_changed(record: Record, redis_url: str) -> None:
    """From the beginning, and from any place in between, each event once."""
    settings = Settings(database_url=record.database_url, redis_url=redis_url, lease_seconds=1.0)

    async def placed(count: int) -> bool:
        async with record.engine.connect() as connection:
            return int((await connection.exec_driver_sql("SELECT count(*) FROM lane_log")).scalar_one()) == count

    for part, lanes in enumerate((4, 2, 3)):
        async with relaying(msgspec.structs.replace(settings, lanes=lanes)):
            await publish(record, [Thing(f"k{number % KEYS}", number) for number in range(part * 40, part * 40 + 40)])
            await eventually(partial(placed, part * 40 + 40))
    async with open_log(record.database_url) as log:
        events = await read_all(log, Marks())
        rest, marks = [], Marks()
        for event in events[:47]:
            marks.reach(event.lane, event.position)
        rest = await read_all(log, Marks.of(str(marks)))
        none = await read_all(log, await log.present())
        everything = await read_all(log, await log.since(seconds_from_now(-60)))

    seen = defaultdict(list)
    for event in events:
        seen[event.subject].append(msgspec.json.decode(event.data)["number"])
    assert seen == {f"k{key}": list(range(key, 120, KEYS)) for key in range(KEYS)}
    assert {event.id for event in rest} == {event.id for event in events[47:]}
    assert (none, len(everything)) == ([], 120)


def happened(position: int, data: str = "{}") -> tuple[int, RecordedEvent]:
    """Return an event on lane 2."""
    event = RecordedEvent(new_id(), "a.b", 1, "/a", "x", None, 2, position, now(), now(), data, "")
    return position, event


async def test_relay_announces_nothing_when_nobody_listens(redis_url: str) -> None:
    """One question a second is all; what is too large goes without its payloads, and a lost Redis is no error."""
    redis = Redis.from_url(redis_url, protocol=2)
    await redis.config_resetstat()
    quiet, heard = Announcer(redis), Announcer(redis)
    for position in range(1, 50):
        await quiet.announce({2: [happened(position)]})
    stats = await redis.info("commandstats")
    async with redis.pubsub(ignore_subscribe_messages=True) as subscription:
        await subscription.subscribe(channel_of(redis))
        await heard.announce({2: [happened(7), happened(8)]})
        await heard.announce({2: [happened(9, "x" * _MOST_BYTES), happened(10)]})
        messages: list[bytes] = []
        async with asyncio.timeout(5):
            while len(messages) < 2:
                if (message := await subscription.get_message(timeout=1)) is not None:
                    messages.append(message["data"])
    away = Announcer(Redis.from_url("redis://127.0.0.1:1/0"))
    await away.announce({2: [happened(1)]})
    await redis.aclose()

    assert "cmdstat_publish" not in stats
    assert stats["cmdstat_pubsub|numsub"]["calls"] <= 2
    told = [
        (one.lane, one.before, one.last, len(one.payloads)) for text in messages for one in read_announcements(text)
    ]
    assert told == [(2, 6, 8, 2), (2, 8, 10, 0)]
