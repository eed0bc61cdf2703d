"""Consumers come and go, relays and workers are killed: effects once, keys in order, for subscribers of both kinds."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from headrace.database.record import Record, open_record
from headrace.settings import Settings
from tests.event_history import Did, Verdict, check_events
from tests.event_road import Start, starting
from tests.lanes import Thing, eventually, publish, registered
from tests.programs import ordered_road
from tests.programs.ordered_road import TABLE, loose, strict

pytestmark = pytest.mark.processes

KEYS = 12
PATIENCE_SECONDS = 60.0
"""A bound for a machine that has other things to do: seven processes are started one after the other."""


class Road:
    """The stores, the processes on them, and what was published."""

    def __init__(self, record: Record, driver: asyncpg.Connection[asyncpg.Record], start: Start) -> None:
        self.record, self.driver, self.start = record, driver, start
        self.accepted: list[tuple[str, int]] = []

    async def publish(self, count: int) -> None:
        """Publish things over all keys, the numbers of each going up."""
        for _ in range(count):
            place = len(self.accepted)
            key, number = f"k{place % KEYS}", place // KEYS
            await publish(self.record, [Thing(key, number)])
            self.accepted.append((key, number))

    async def done(self, share: float = 1.0) -> bool:
        """Tell whether both subscribers have had their effects of so much of what was published."""
        wanted = int(2 * share * len(self.accepted))
        return bool(await self.driver.fetchval("SELECT count(*) >= $1 FROM effects", wanted))

    async def free(self) -> bool:
        """Tell whether no key is held any more."""
        return bool(await self.driver.fetchval("SELECT count(*) = 0 FROM held_keys"))

    async def verdict(self) -> Verdict:
        """Hold what was done against what was accepted."""
        rows = await self.driver.fetch("SELECT by, key, number FROM effects ORDER BY place")
        did = {
            name: Did(through_session=[(row["key"], row["number"]) for row in rows if row["by"] == name])
            for name in ("strict", "loose")
        }
        return check_events(self.accepted, did)


@pytest.fixture
async def road(database_url: str, redis_url: str) -> AsyncIterator[Road]:
    """A road with a table of effects, which refuses no duplicate, so that one would be seen."""
    driver = await asyncpg.connect(database_url)
    await driver.execute(TABLE)
    settings = Settings(database_url=database_url, redis_url=redis_url, lease_seconds=1.0, shutdown_seconds=2.0)
    async with open_record(settings) as record:
        await registered(record, strict, loose)
        with starting(settings, program=Path(ordered_road.__file__)) as start:
            yield Road(record, driver, start)
    await driver.close()


async def test_nothing_is_twice_or_overtaken_when_consumers_come_and_go(road: Road) -> None:
    """Three consumers under load: one after the other joins, is told to stop, is killed, or wakes up too late."""
    road.start("relay")
    road.start("work")
    consumers = [road.start("consume") for _ in range(3)]
    for blow in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL):
        await road.publish(60)
        await eventually(partial(road.done, 0.5), within_seconds=PATIENCE_SECONDS)
        struck = consumers.pop(0)
        struck.send_signal(blow)
        await road.publish(30)
        if blow is signal.SIGSTOP:
            await eventually(partial(_lost_its_lanes, road, struck), within_seconds=PATIENCE_SECONDS)
            struck.send_signal(signal.SIGCONT)
            consumers.append(struck)
        else:
            consumers.append(road.start("consume"))
    await eventually(road.done, within_seconds=PATIENCE_SECONDS)
    await eventually(road.free, within_seconds=PATIENCE_SECONDS)

    verdict = await road.verdict()

    assert verdict.faults == ()
    assert verdict.handled == {"strict": 360, "loose": 360}


async def _lost_its_lanes(road: Road, struck: subprocess.Popen[bytes]) -> bool:
    return bool(
        await road.driver.fetchval(
            """SELECT count(*) = 0 FROM leases l JOIN processes p ON p.id = l.holder
               WHERE p.pid = $1 AND l.name LIKE 'sub:%' AND l.expires_at > now()""",
            struck.pid,
        )
    )


async def test_key_is_neither_lost_nor_overtaken_when_everybody_around_it_is_killed(road: Road) -> None:
    """Relay, worker and consumer die at any moment while events fail, wait, and follow; the lanes change meanwhile."""
    running = {role: road.start(role) for role in ("relay", "work", "consume")}
    for role in ("consume", "work", "relay:8", "consume", "work", "relay:2", "consume"):
        await road.publish(36)
        await asyncio.sleep(random.uniform(0.2, 0.8))  # noqa: S311 - any moment: nothing is expected of it
        kind = role.partition(":")[0]
        running[kind].kill()
        running[kind].wait()
        running[kind] = road.start(role)
    await eventually(road.done, within_seconds=PATIENCE_SECONDS)
    await eventually(partial(_has_lanes, road, 2), within_seconds=PATIENCE_SECONDS)
    await eventually(road.free, within_seconds=PATIENCE_SECONDS)

    verdict = await road.verdict()

    assert verdict.faults == ()
    assert verdict.handled == {"strict": 252, "loose": 252}
    assert await road.driver.fetchval("SELECT count(*) FROM waiting_events") == 0


async def _has_lanes(road: Road, count: int) -> bool:
    return bool(await road.driver.fetchval("SELECT count(*) = $1 FROM lanes", count))
