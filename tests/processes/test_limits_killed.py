"""Limits hold although the processes that keep them are killed, or stopped and woken up late."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from headrace.database.states import JobState
from headrace.diagnostics import sleep
from headrace.jobs.call import Call, Options
from headrace.jobs.limits import Limits, Rate, set_limits
from headrace.transaction import transaction
from tests.fleet import entered, held
from tests.intervals import most_at_once, most_within
from tests.job_processes import World, open_world, settings_of

pytestmark = [pytest.mark.processes, pytest.mark.slow]

KEYS = [f"customer-{n}" for n in range(50)]


@pytest.fixture
async def world(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """Processes with a lease of one second."""
    async with open_world(settings_of(database_url, redis_url), tmp_path) as opened:
        yield opened


def calls(queue: str, count: int, *, keyed: bool = False, seconds: float = 0.03) -> list[Call]:
    """Return calls that take a moment, for a queue of their own, with fifty keys in turn where asked for."""
    return [
        sleep.options(Options(queue=queue, concurrency_key=KEYS[n % 50] if keyed else None)).call(seconds)
        for n in range(count)
    ]


async def limit(world: World, queue: str, limits: Limits) -> None:
    """Set the limits of a queue."""
    async with transaction(world.record) as tx:
        await set_limits(tx, queue, limits)


async def some_ended(world: World, count: int) -> None:
    """Wait until that many more jobs have succeeded than now."""
    await world.succeeded((await world.counts()).get("succeeded", 0) + count)


async def test_limits_hold_when_the_leader_is_stopped_and_woken_up_late(world: World) -> None:
    """Two relays, each in turn stopped for longer than its lease: both believe for a moment that they lead."""
    await limit(world, "few", Limits(concurrency=4))
    await limit(world, "slow", Limits(rate=Rate(limit=15, per_seconds=1.0)))
    await world.enqueue(*calls("few", 250), *calls("slow", 120), *calls("keyed", 400, keyed=True))
    for _ in range(2):
        world.relay()
    world.worker()
    await world.registered("relay", 2)

    for _ in range(3):
        await some_ended(world, 20)
        leader = await world.leader()
        os.kill(leader, signal.SIGSTOP)
        await some_ended(world, 60)  # the other one leads, and no lock of the stopped one is in its way
        os.kill(leader, signal.SIGCONT)
    counts = await world.all_finished(90)

    driver = await asyncpg.connect(world.settings.database_url)
    keys = (await held(driver, "keyed")).values()
    assert counts == {"succeeded": 770}
    assert most_at_once((await held(driver, "few"))[None]) <= 4
    assert most_within(await entered(driver, "slow", JobState.RUNNING), 1.0) <= 15
    assert (len(keys), max(most_at_once(intervals) for intervals in keys)) == (50, 1)
    await driver.close()


async def test_limits_hold_when_ten_workers_come_and_go(world: World) -> None:
    """Ten worker processes and fifty keys; some workers are killed in the middle of their jobs."""
    await limit(world, "few", Limits(concurrency=12))
    await world.enqueue(*calls("few", 300, seconds=0.05), *calls("keyed", 500, keyed=True, seconds=0.05))
    world.relay()
    for _ in range(10):
        world.worker()
    pids = await world.registered("worker", 10)

    for pid in pids[:3]:
        await some_ended(world, 40)
        os.kill(pid, signal.SIGKILL)
    counts = await world.all_finished(90)

    driver = await asyncpg.connect(world.settings.database_url)
    keys = (await held(driver, "keyed")).values()
    assert counts == {"succeeded": 800}
    assert most_at_once((await held(driver, "few"))[None]) <= 12
    assert (len(keys), max(most_at_once(intervals) for intervals in keys)) == (50, 1)
    await driver.close()
