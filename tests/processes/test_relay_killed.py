"""The relay is killed: each event is once in the stream, in order, and a standby leads."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from subprocess import Popen

import asyncpg
import pytest
from redis.asyncio import Redis

from headrace.database.record import Record, open_record
from headrace.settings import Settings
from headrace.streams.connection import open_commands
from tests.event_road import Start, starting
from tests.lanes import Thing, eventually, heads, positions, publish, registered
from tests.programs.event_road import effects

LEASE_AND_SLACK_SECONDS = 10.0
"""A standby leads within five seconds on an idle machine: the lease takes three; a busy one gets twice that."""

pytestmark = pytest.mark.processes


class Road:
    """The stores, and the processes on them."""

    def __init__(self, record: Record, driver: asyncpg.Connection[asyncpg.Record], redis: Redis, start: Start) -> None:
        self.record, self.driver, self.redis, self.start = record, driver, redis, start

    async def publish(self, first: int, last: int) -> None:
        """Publish numbered events of one key."""
        await publish(self.record, [Thing("a", number) for number in range(first, last + 1)])

    async def placed(self, count: int) -> bool:
        """Tell whether that many events have positions."""
        return sum((await heads(self.driver)).values()) == count

    async def streamed(self, count: int) -> bool:
        """Tell whether the one lane's stream is dense up to that position."""
        lanes = [lane for lane, head in (await heads(self.driver)).items() if head]
        return bool(lanes) and await positions(self.redis, lanes[0]) == list(range(1, count + 1))


@pytest.fixture
async def road(database_url: str, redis_url: str) -> AsyncIterator[Road]:
    """A road whose entries are kept, because nobody consumes them."""
    redis, driver = open_commands(redis_url), await asyncpg.connect(database_url)
    settings = Settings(database_url=database_url, redis_url=redis_url)
    async with open_record(settings) as record:
        await registered(record, effects)
        with starting(settings) as start:
            yield Road(record, driver, redis, start)
    await driver.close()
    await redis.aclose()


async def test_each_event_is_once_in_the_stream_when_the_relay_dies_before_its_two_writes(road: Road) -> None:
    """Killed in the statement that gives positions, it may or may not have given them: the next one finds out."""
    await road.publish(1, 20)
    async with road.driver.transaction():
        await road.driver.execute("SELECT FROM outbox ORDER BY seq LIMIT 1 FOR UPDATE")
        relay = road.start("relay")
        await eventually(lambda: _waits_for_the_outbox(road))
        relay.kill()
        relay.wait()
        unplaced = await road.placed(0)

    road.start("relay")
    await eventually(lambda: road.streamed(20))

    assert unplaced


async def _waits_for_the_outbox(road: Road) -> bool:
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    return bool(await road.driver.fetchval(waiting))


async def test_each_event_is_once_in_the_stream_when_the_relay_dies_after_its_two_writes(road: Road) -> None:
    """Killed when the batch is in the stream, it has done it all: the next one appends nothing twice."""
    relay = road.start("dying-late-relay")
    await road.publish(1, 20)
    await eventually(lambda: _dead(relay))

    road.start("relay")
    await road.publish(21, 30)
    await eventually(lambda: road.streamed(30))

    assert relay.returncode == -signal.SIGKILL
    assert not await road.driver.fetchval("SELECT count(*) FROM belt_mends WHERE reason <> 'stream_missing'")


async def test_each_event_is_once_in_the_stream_when_the_relay_dies_between_its_two_writes(road: Road) -> None:
    """Positions committed by a relay that died before its append are appended by the next one, before anything new."""
    relay = road.start("dying-relay")
    await road.publish(1, 20)
    await eventually(lambda: _dead(relay))
    committed = sum((await heads(road.driver)).values())
    await road.publish(21, 30)

    road.start("relay")
    await eventually(lambda: road.streamed(30))

    assert relay.returncode == -signal.SIGKILL
    assert committed > 0


async def _dead(process: Popen[bytes]) -> bool:
    return process.poll() is not None


async def test_standby_leads_within_five_seconds_when_the_leader_is_killed(road: Road) -> None:
    """With the leader killed under traffic, the standby goes on where it was: nothing twice, lost or out of order."""
    leader = road.start("relay")
    await road.publish(1, 5)
    await eventually(lambda: road.streamed(5))
    road.start("relay")
    await eventually(lambda: _relays(road, 2))
    await road.publish(6, 40)

    leader.kill()
    await road.publish(41, 60)

    await eventually(lambda: road.streamed(60), within_seconds=LEASE_AND_SLACK_SECONDS)


async def test_paused_leader_writes_nothing_when_it_wakes_up_late(road: Road) -> None:
    """A leader that was stopped, and replaced meanwhile, moves nothing when it wakes up, and stands by again."""
    leader = road.start("relay")
    await road.publish(1, 5)
    await eventually(lambda: road.streamed(5))
    leader.send_signal(signal.SIGSTOP)
    road.start("relay")
    await road.publish(6, 20)
    await eventually(lambda: road.streamed(20))

    leader.send_signal(signal.SIGCONT)
    await road.publish(21, 60)

    await eventually(lambda: road.streamed(60))
    assert await road.placed(60)


async def test_relay_goes_on_when_its_connections_are_cut(road: Road) -> None:
    """Sessions that the record and Redis end are made anew; nothing is lost."""
    road.start("relay")
    await road.publish(1, 5)
    await eventually(lambda: road.streamed(5))

    await road.driver.execute("""
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE pid <> pg_backend_pid() AND datname = current_database()
    """)
    await road.record.engine.dispose()
    await road.redis.client_kill_filter(_type="normal", skipme=True)
    await road.publish(6, 30)

    await eventually(lambda: road.streamed(30))


async def _relays(road: Road, count: int) -> bool:
    alive = "SELECT count(*) FROM processes WHERE role = 'relay' AND expires_at > now()"
    return bool(await road.driver.fetchval(alive) == count)
