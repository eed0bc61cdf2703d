"""A belt that is full holds up nobody: positions are given, others read on, and it is fed when there is room."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import msgspec
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from headrace.clock import new_id
from headrace.leases import Leases
from headrace.loops import Stop
from headrace.relay.lanes import Lanes
from headrace.relay.moving import move_events
from headrace.relay.process import stand_by
from headrace.relay.releasing import keep_jobs, mend_belt, release_jobs
from headrace.relay.trim import Trimmer
from headrace.streams.append import RedisWriter
from headrace.subscribers.contract import subscriber
from headrace.subscribers.delivery import Delivery
from headrace.testing import working as guest
from tests import trial
from tests.conftest import MIGRATIONS
from tests.integration.test_belt_survival import NAME, notes, opened
from tests.lanes import Thing, consuming, ends, eventually, heads, positions, publish, registered, relaying, settled
from tests.own_stores import Store, own_redis
from tests.road import open_road, working

CAPACITY = 100
NODE = 100
"""Trimming is by whole nodes of a stream: so many entries may stay longer."""


@subscriber("tests.behind", Thing)
async def behind(delivery: Delivery, thing: Thing) -> None:
    """Be far behind, because nobody runs it."""
    del delivery, thing


async def test_lane_is_fed_as_room_comes_when_it_is_full(database_url: str, redis_url: str) -> None:
    """Positions are given at once; the stream holds what it may, and gets the rest in order."""
    async with opened(database_url, redis_url) as road:
        fence = (await Leases(road.record.engine, new_id(), seconds=60).take(["relay"]))["relay"]
        lanes = Lanes(road.driver, RedisWriter(road.redis), fence, capacity=CAPACITY)
        await publish(road.record, [Thing("a", number) for number in range(250)])

        with capture_logs() as logs:
            await _work_on(lanes)
        lane, head = next((lane, head) for lane, head in (await heads(road.driver)).items() if head)
        held = await positions(road.redis, lane)
        await road.driver.execute("UPDATE checkpoints SET position = 190")
        await Trimmer(road.driver, RedisWriter(road.redis)).step()
        await lanes.look()
        await _work_on(lanes)

    assert head == 250
    assert held == list(range(1, CAPACITY + 1))
    assert [(log["event"], log["held_by"]) for log in logs if log["event"] == "lane_full"] == [("lane_full", NAME)]
    assert (await _positions(redis_url, lane))[-1] == 250


async def test_others_read_on_when_one_subscription_fills_the_lane(database_url: str, redis_url: str) -> None:
    """What has no room on the belt they are given from the record, in order, each once."""
    async with opened(database_url, redis_url) as road:
        await registered(road.record, behind)
        settings = msgspec.structs.replace(road.settings, lane_capacity=CAPACITY)
        async with relaying(settings), consuming(settings, notes):
            await publish(road.record, [Thing("a", number) for number in range(400)])
            await eventually(lambda: settled(road.driver, NAME, events=400))
        lane = await road.lane()
        held = len(await positions(road.redis, lane))
        numbers = [row["number"] for row in await road.driver.fetch("SELECT number FROM notes ORDER BY place")]

    assert held <= CAPACITY + NODE
    assert numbers == list(range(400))


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[tuple[Store, Redis]]:
    """A Redis of this test's own, whose memory may be limited."""
    async with own_redis(tmp_path) as store, Redis.from_url(store.url) as client:
        yield store, client


async def test_events_and_jobs_go_on_by_themselves_when_redis_was_full(
    small: tuple[Store, Redis], database_url: str
) -> None:
    """With `noeviction` it refuses every write: events are read from the record, jobs wait, and nothing is lost."""
    store, client = small
    parts = (move_events, release_jobs, keep_jobs, mend_belt)
    async with opened(database_url, store.url) as road, open_road(database_url, store.url) as jobs:

        async def relay(stop: Stop) -> None:
            await stand_by(road.settings, stop, migrations=MIGRATIONS, parts=parts)

        async with guest.running(relay, 15.0), working(jobs), consuming(road.settings, notes):
            await road.publish()
            await road.settled()
            await client.config_set("maxmemory", 1)
            await road.publish(rounds=3)
            (job,) = await jobs.enqueue(trial.write.call("while it was full"))
            await road.settled()
            waiting = await jobs.job(job)
            refused = await _whole(client, road.driver)

            await client.config_set("maxmemory", 0)
            await jobs.finished(job)
            await eventually(lambda: _whole(client, road.driver))

        await road.expect_each_once()
    assert waiting.state.value in {"pending", "queued"}
    assert not refused


async def test_events_are_read_from_the_record_when_redis_is_full_and_empty(
    small: tuple[Store, Redis], database_url: str
) -> None:
    """Not even a group can be made then; whoever comes and whoever is there goes on without."""
    store, client = small
    async with opened(database_url, store.url) as road, relaying(road.settings), consuming(road.settings, notes):
        await road.publish()
        await road.settled()
        await client.config_set("maxmemory", 1)
        await client.flushall()
        await road.publish(rounds=2)
        await road.settled()

        await client.config_set("maxmemory", 0)
        await eventually(lambda: _whole(client, road.driver))
        await road.publish()
        await road.settled()

        await road.expect_each_once()


async def _whole(client: Redis, driver: asyncpg.Connection[asyncpg.Record]) -> bool:
    """Tell whether every stream ends where its lane does."""
    expected = {lane: head for lane, head in (await heads(driver)).items() if head}
    return await ends(RedisWriter(client), list(expected)) == expected


async def _work_on(lanes: Lanes) -> None:
    while await lanes.step():
        pass


async def _positions(redis_url: str, lane: int) -> list[int]:
    async with Redis.from_url(redis_url) as client:
        return await positions(client, lane)
