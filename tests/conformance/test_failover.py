"""The whole road on a cluster and on sentinels, with the primary killed in the middle.

Events flow from the record through relay and consumers, each makes a job, and workers run it; meanwhile the server that
has the belt dies, and a replica takes its place that knows everything, or one that had missed the last of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import msgspec
import pytest
from sqlalchemy import text

from headrace.api.watch import SystemWatch
from headrace.application import Application
from headrace.events.model import RecordedEvent
from headrace.events.registry import event
from headrace.loops import Stop
from headrace.relay.process import parts_of, stand_by
from headrace.resources import Resources, open_resources, registry_of
from headrace.settings import Settings
from headrace.stack.readiness import redis_answers
from headrace.streams.connection import open_commands
from headrace.subscribers.contract import projection, subscriber
from headrace.subscribers.delivery import Delivery
from headrace.subscribers.process import consume
from headrace.tasks.contract import task
from headrace.tasks.run import Run
from headrace.testing.working import running, working
from headrace.transaction import Transaction, transaction
from tests.cluster import Cluster, moving_slot
from tests.conformance.conftest import needs_server
from tests.conftest import MIGRATIONS
from tests.topologies import Server, Topology, wait_for

KEYS = 12
PATIENCE_SECONDS = 30.0
_TABLE = """
    CREATE TABLE seen (
        seq bigint GENERATED ALWAYS AS IDENTITY, by text NOT NULL, key text NOT NULL, number integer NOT NULL)
"""
_SEE = text("INSERT INTO seen (by, key, number) VALUES (:by, :key, :number)")

pytestmark = [needs_server, pytest.mark.timeout(90)]


@event("failover.thing", subject="key")
class Thing(msgspec.Struct, frozen=True):
    """Something happened to a key."""

    key: str
    number: int


@task("failover.follow")
async def follow(run: Run, key: str, number: int) -> None:
    """Do what follows from an event."""
    await _see(await run.begin(), "job", key, number)


@subscriber("failover.react", Thing)
async def react(delivery: Delivery, thing: Thing) -> None:
    """Write an effect, and make a job of every fifth."""
    tx = await delivery.begin()
    await _see(tx, "subscriber", thing.key, thing.number)
    if thing.number % 5 == 0:
        await tx.enqueue(follow, thing.key, thing.number)


@projection("failover.fold", Thing)
async def fold(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
    """Write an effect for each."""
    for one in events:
        thing = msgspec.json.decode(one.data, type=Thing)
        await _see(tx, "projection", thing.key, thing.number)


application = Application(
    name="failover",
    tasks=(follow,),
    events=(Thing,),
    subscriptions=(react, fold),
    migrations=MIGRATIONS[0],
)


async def _see(tx: Transaction, by: str, key: str, number: int) -> None:
    await tx.connection.execute(_SEE, {"by": by, "key": key, "number": number})


class Road:
    """The road at work, and what was seen at its end."""

    def __init__(self, resources: Resources, driver: asyncpg.Connection[asyncpg.Record]) -> None:
        self.resources = resources
        self._driver = driver
        self.published = 0

    async def publish(self, count: int) -> None:
        """Publish so many events of all keys, one after another."""
        for number in range(self.published, self.published + count):
            async with transaction(self.resources.record) as tx:
                await tx.publish(Thing(f"key {number % KEYS}", number))
        self.published += count

    async def all_seen(self) -> None:
        """Wait until everything that was published has all of its effects, at least."""
        wanted = 2 * self.published + len(range(0, self.published, 5))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await self._driver.fetchval("SELECT count(DISTINCT (by, number)) FROM seen") < wanted:
                await asyncio.sleep(0.02)

    async def numbers(self, by: str) -> list[int]:
        """Return the numbers that were seen, in ascending order, each as often as it was."""
        return [row[0] for row in await self._driver.fetch("SELECT number FROM seen WHERE by = $1 ORDER BY 1", by)]

    async def out_of_order(self) -> int:
        """Return how often an event came after a later one of its key."""
        return int(
            await self._driver.fetchval("""
                SELECT count(*) FROM (
                    SELECT number, lag(number) OVER (PARTITION BY by, key ORDER BY seq) AS before
                    FROM seen WHERE by <> 'job') AS pairs WHERE before > number
            """)
        )

    async def put_back(self) -> int:
        """Return how many entries the lanes had lost."""
        lost = "SELECT coalesce(sum(entries), 0) FROM belt_mends WHERE reason IN ('stream_behind', 'stream_missing')"
        return int(await self._driver.fetchval(lost))

    async def belt_is_well(self) -> bool:
        """Tell whether the system's own look finds Redis."""
        redis = open_commands(self.resources.settings.redis_url, connections=1)
        try:
            health = await SystemWatch(self.resources.record, redis).look()
        finally:
            await redis.aclose()
        return "redis" not in {one.part for one in health.missing}


@asynccontextmanager
async def open_road(database_url: str, redis_url: str) -> AsyncIterator[Road]:
    """Run a relay, a worker and a consumer."""
    settings = Settings(
        database_url=database_url, redis_url=redis_url, lease_seconds=1.0, shutdown_seconds=3.0, worker_concurrency=10
    )
    registry = registry_of([application])
    async with AsyncExitStack() as stack:
        driver = await asyncpg.connect(database_url)
        stack.push_async_callback(driver.close)
        await driver.execute(_TABLE)
        resources = await stack.enter_async_context(open_resources(settings, registry))
        await stack.enter_async_context(running(lambda stop: _relay(settings, resources, stop), PATIENCE_SECONDS))
        await stack.enter_async_context(running(lambda stop: consume(settings, registry, stop), PATIENCE_SECONDS))
        await stack.enter_async_context(working(resources, seconds=PATIENCE_SECONDS))
        yield Road(resources, driver)


async def _relay(settings: Settings, resources: Resources, stop: Stop) -> None:
    parts = parts_of(resources.registry.tasks)
    await stand_by(settings, stop, migrations=resources.registry.migrations, parts=parts)


@pytest.fixture(params=["cluster", "sentinel"])
def topology(request: pytest.FixtureRequest) -> Topology:
    """Servers that are all there, and hold nothing."""
    topology: Topology = request.getfixturevalue(request.param)
    topology.mend()
    topology.empty()
    return topology


async def test_nothing_is_lost_or_done_twice_when_the_primary_is_killed(topology: Topology, database_url: str) -> None:
    """A replica takes over while events and jobs flow: every effect once, in the order of each key."""
    async with open_road(database_url, topology.url) as road:
        await road.publish(60)

        topology.primary().kill()
        await road.publish(60)
        await road.all_seen()

        assert await road.belt_is_well()
        assert await redis_answers(topology.url)
        assert await road.numbers("subscriber") == list(range(120))
        assert await road.numbers("projection") == list(range(120))
        assert await road.numbers("job") == list(range(0, 120, 5))
        assert await road.out_of_order() == 0


async def test_nothing_is_lost_or_done_twice_when_the_primary_steps_down(topology: Topology, database_url: str) -> None:
    """A planned failover: the former primary stays, with everybody connected to it, and refuses from then on."""
    async with open_road(database_url, topology.url) as road:
        await road.publish(40)

        await asyncio.to_thread(topology.hand_over)
        await road.publish(40)
        await road.all_seen()

        assert await road.numbers("subscriber") == list(range(80))
        assert await road.numbers("projection") == list(range(80))
        assert await road.numbers("job") == list(range(0, 80, 5))
        assert await road.out_of_order() == 0


async def test_nothing_is_lost_or_done_twice_when_the_new_primary_is_older(
    topology: Topology, database_url: str
) -> None:
    """The replica that takes over had missed the last of it: what it lacks comes from the record."""
    async with open_road(database_url, topology.url) as road:
        await road.publish(30)
        await road.all_seen()
        replicas = await asyncio.to_thread(topology.replicas)
        for replica in replicas:
            replica.kill()
        await road.publish(60)

        topology.primary().kill()
        await asyncio.gather(*(asyncio.to_thread(_start, replica) for replica in replicas))
        await road.publish(30)
        await road.all_seen()

        assert await road.put_back() >= 60
        assert await road.numbers("subscriber") == list(range(120))
        assert await road.numbers("projection") == list(range(120))
        assert await road.numbers("job") == list(range(0, 120, 5))
        assert await road.out_of_order() == 0


async def test_nothing_is_lost_or_done_twice_when_the_primary_hangs_and_wakes(
    topology: Topology, database_url: str
) -> None:
    """It wakes up when another one has its place, and believes for a moment that it still has it."""
    async with open_road(database_url, topology.url) as road:
        await road.publish(40)
        hanging = topology.primary()

        hanging.freeze()
        await road.publish(40)
        await asyncio.to_thread(wait_for, lambda: topology.primary() is not hanging)
        hanging.thaw()
        await road.publish(40)
        await road.all_seen()

        assert await road.numbers("subscriber") == list(range(120))
        assert await road.numbers("projection") == list(range(120))
        assert await road.numbers("job") == list(range(0, 120, 5))
        assert await road.out_of_order() == 0


async def test_nothing_is_lost_or_done_twice_when_the_slot_moves(cluster: Cluster, database_url: str) -> None:
    """A cluster is given another shape: half of the belt answers ASK for a while, then all of it MOVED."""
    cluster.mend()
    cluster.empty()
    async with open_road(database_url, cluster.url) as road:
        await road.publish(40)

        with moving_slot(cluster):
            await road.publish(40)
            await asyncio.sleep(0.5)  # that long the slot is neither here nor there
        await road.publish(40)
        await road.all_seen()

        assert await road.numbers("subscriber") == list(range(120))
        assert await road.numbers("projection") == list(range(120))
        assert await road.numbers("job") == list(range(0, 120, 5))
        assert await road.out_of_order() == 0


def _start(server: Server) -> None:
    server.start()
