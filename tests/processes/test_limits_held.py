"""Limits hold for the whole fleet: ten workers, fifty concurrency keys, measured from the record."""

from __future__ import annotations

import os
import random
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import msgspec
import pytest
from redis.asyncio import Redis

from headrace.diagnostics import sleep
from headrace.jobs.call import Call, Options
from headrace.jobs.limits import Limits, Rate, set_limits
from headrace.transaction import transaction
from tests.intervals import Interval, most_at_once, most_within
from tests.job_processes import World, open_world, settings_of

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(240)]

WORKERS = 10
KEYS = 50
RATE = Rate(20, 0.5)
LIMITS = {
    "narrow": Limits(concurrency=7),
    "keyed": Limits(),
    "paired": Limits(per_key_concurrency=2),
    "rated": Limits(rate=RATE),
}


@pytest.fixture
async def world(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """Ten workers, two relays."""
    settings = msgspec.structs.replace(settings_of(database_url, redis_url), worker_concurrency=8)
    async with open_world(settings, tmp_path) as opened:
        opened.relay()
        opened.worker(children=WORKERS)
        await opened.registered("worker", WORKERS)
        opened.relay()
        await opened.registered("relay", 2)
        yield opened


def load() -> list[Call]:
    """Return jobs of every kind of limit, mixed."""
    dice = random.Random(7)  # noqa: S311 - a load that can be repeated
    calls = [sleep.options(Options(queue="narrow")).call(dice.uniform(0.01, 0.08)) for _ in range(150)]
    calls += [sleep.options(Options(queue="rated")).call(0.01) for _ in range(120)]
    for queue, count in (("keyed", 8), ("paired", 6)):
        for n in range(KEYS * count):
            options = Options(queue=queue, concurrency_key=f"key {n % KEYS}", priority=dice.randint(0, 9))
            calls.append(sleep.options(options).call(dice.uniform(0.005, 0.05)))
    dice.shuffle(calls)
    return calls


async def test_limits_are_never_exceeded_by_ten_workers_on_fifty_keys(world: World) -> None:
    """Concurrency, rate and keys, through a FLUSHDB and the death of the leader; and they are used in full."""
    async with transaction(world.record) as tx:
        for queue, limits in LIMITS.items():
            await set_limits(tx, queue, limits)
    calls = load()
    await world.enqueue(*calls)
    await world.succeeded(100)
    async with Redis.from_url(world.settings.redis_url) as client:
        await client.flushdb()
    await world.succeeded(400)
    os.kill(await world.leader(), signal.SIGKILL)
    counts = await world.all_finished(60)

    runs = await _runs(world)
    keyed, paired = (_most_of_one_key(runs[queue].items()) for queue in ("keyed", "paired"))
    starts = [row[0] for row in await world.rows("SELECT started_at FROM jobs WHERE queue = 'rated'")]
    assert counts == {"succeeded": len(calls)}
    assert 4 <= most_at_once(_all(runs["narrow"].values())) <= 7
    assert (keyed, paired) == (1, 2)
    assert RATE.limit // 2 <= most_within(starts, RATE.per_seconds) <= RATE.limit
    assert most_at_once(_all(runs["keyed"].values())) > 10  # different keys did run at once
    assert (await world.rows("SELECT count(DISTINCT worker_id) FROM jobs"))[0][0] > WORKERS // 2


async def _runs(world: World) -> dict[str, dict[str | None, list[Interval]]]:
    """Return when jobs ran, by queue and key, as the record tells it move by move."""
    found: dict[str, dict[str | None, list[Interval]]] = defaultdict(lambda: defaultdict(list))
    for queue, key, begin, end in await world.rows("""
        SELECT j.queue, j.concurrency_key, t.at, t.until
        FROM job_transitions t JOIN jobs j ON j.id = t.job_id WHERE t.state = 'running'
    """):
        found[queue][key].append((begin, end))
    return found


def _most_of_one_key(runs: Iterable[tuple[str | None, list[Interval]]]) -> int:
    return max(most_at_once(intervals) for _, intervals in runs)


def _all(runs: Iterable[list[Interval]]) -> list[Interval]:
    return [interval for intervals in runs for interval in intervals]
