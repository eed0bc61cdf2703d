"""What live tails rest on: the log read across a change of its lanes, and announcements only while somebody listens."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from uuid import UUID

import asyncpg
import msgspec
from redis.asyncio import Redis

from headrace.clock import first_id_at, new_id, now, seconds_from_now
from headrace.database.away import is_away
from headrace.database.driver import borrowed
from headrace.database.record import Record
from headrace.events.lane import Stretch
from headrace.events.model import RecordedEvent
from headrace.events.reading import Reading
from headrace.events.seeking import end_before
from headrace.live.announcing import _MOST_BYTES, Announcer, channel_of, read_announcements
from headrace.live.hub import Hub
from headrace.live.listener import Interest, Listener
from headrace.live.log import Log, open_log
from headrace.live.marks import Marks
from headrace.settings import Settings
from tests.lanes import Thing, eventually, publish, relaying

KEYS = 8
_EVENT = """
    INSERT INTO event_log (id, type, version, source, source_id, slot, data, trace_id, traceparent, created_at, time)
    VALUES ($1, 'a.b', 1, '/a', '', 0, '{}', '', '', $2, $2)
"""


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


async def place(driver: asyncpg.Connection[asyncpg.Record], hours: Sequence[float]) -> None:
    """Put events on lane 0 at positions from 11 on, published so many hours ago, in this order."""
    for position, ago in enumerate(hours, 11):
        moment = now() - timedelta(hours=ago)
        identity = UUID(int=first_id_at(moment).int + position)
        await driver.execute(_EVENT, identity, moment)
        await driver.execute("INSERT INTO lane_log (lane, position, event_id) VALUES (0, $1, $2)", position, identity)
    await driver.execute("UPDATE lanes SET head = $1 WHERE lane = 0", 10 + len(hours))


async def test_time_is_found_exactly_when_positions_are_not_in_the_order_of_time(
    record: Record,
) -> None:
    """A transaction may be open for hours before its events get their positions, and retention has dropped some."""
    hours = [30, 28, 3, 20, 26, 2, 22, 1]
    whole = Stretch(0, 0, 0, 10 + len(hours))
    times = [seconds_from_now(-3600 * ago) for ago in (40, 29, 5, 2.5, 0.5)]

    async with borrowed(record.engine) as driver:
        await place(driver, hours)
        found = [await end_before(driver, whole, moment, rows=2) for moment in times]

    assert found == [10, 11, 12, 15, 18]


class Silent(asyncio.Protocol):
    """The server of a PostgreSQL that takes connections and hangs up on them after a while."""

    def __init__(self, came: list[float]) -> None:
        self._came = came

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hang up in a moment."""
        self._came.append(asyncio.get_running_loop().time())
        asyncio.get_running_loop().call_later(0.3, transport.close)


async def test_newcomers_share_one_failure_when_the_record_is_away() -> None:
    """They do not ask it one after the other, each with the patience of one."""
    came: list[float] = []
    server = await asyncio.get_running_loop().create_server(lambda: Silent(came), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, open_log(f"postgresql://nobody@127.0.0.1:{port}/none?sslmode=disable") as log:
        hub = Hub(log, Reading([]), most=100)
        entering = [hub.enter(Listener(Interest())) for _ in range(20)]
        failed = await asyncio.gather(*entering, return_exceptions=True)

    assert [is_away(one) for one in failed if isinstance(one, Exception)] == [True] * 20
    assert len(came) == 1


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
