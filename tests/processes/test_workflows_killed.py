"""Relays and workers are killed while a workflow runs: no job of it starts too early, none is left behind."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from headrace.jobs.workflow import Workflow
from headrace.transaction import transaction
from tests import trial
from tests.chaos.blows import Kind, plan
from tests.chaos.misfortune import Misfortune
from tests.job_processes import World, open_world, settings_of
from tests.own_stores import own_postgres, own_redis

pytestmark = pytest.mark.processes

JOBS = 200
TOO_EARLY = """
    SELECT l.child_id FROM job_parents l
    JOIN job_transitions c ON c.job_id = l.child_id AND c.state IN ('pending', 'queued', 'running')
    WHERE NOT EXISTS (SELECT FROM job_transitions p
                      WHERE p.job_id = l.parent_id AND p.state = 'succeeded' AND p.at <= c.at)
"""


@pytest.fixture
async def world(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """Processes with a lease of one second."""
    async with open_world(settings_of(database_url, redis_url), tmp_path) as opened:
        yield opened


def graph(seed: int, *, reach: int = 20, seconds: float = 0.02) -> Workflow:
    """Return a workflow in which each job waits for up to three of those before it, and writes one effect."""
    chance = random.Random(seed)  # noqa: S311 - a graph that can be made again
    workflow = Workflow()
    for number in range(JOBS):
        before = range(max(0, number - reach), number)
        parents = chance.sample(before, min(len(before), chance.randint(0, 3)))
        fails = int(chance.random() < 0.1)
        call = trial.write.call(str(number), seconds, fails)
        workflow.add(f"j{number}", call, after=[f"j{parent}" for parent in parents])
    return workflow


@pytest.mark.parametrize("seed", [3])
async def test_order_holds_when_relays_and_workers_are_killed(world: World, seed: int) -> None:
    """Every effect is there once, and no job was even due before all its parents had succeeded."""
    world.relay()
    world.relay()
    world.worker()
    world.worker()
    await world.registered("worker", 2)
    chance = random.Random(seed)  # noqa: S311 - a misfortune that can be repeated
    async with transaction(world.record) as tx:
        await tx.start(graph(seed))

    for tenth in range(1, 9):
        await world.succeeded(JOBS * tenth // 10)
        if tenth % 2:
            os.kill(await world.leader(), signal.SIGKILL)
            world.relay()
        else:
            os.kill(chance.choice(await world.registered("worker")), signal.SIGKILL)
    counts = await world.all_finished(90)

    assert counts == {"succeeded": JOBS}
    assert await world.effects() == {str(number): 1 for number in range(JOBS)}
    await all_was_followed(world)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [11])
async def test_order_holds_whatever_dies(tmp_path: Path, seed: int) -> None:
    """A workflow, a batch with a job that follows, and thirty deaths to be told of, while every part comes and goes."""
    async with (
        own_redis(tmp_path) as redis,
        own_postgres(tmp_path) as postgres,
        open_world(settings_of(postgres.url, redis.url), tmp_path) as world,
    ):
        for _ in range(2):
            world.relay()
            world.worker()
        await world.registered("worker", 2)
        async with transaction(world.record) as tx:
            await tx.start(graph(seed, reach=5, seconds=0.1))
            batch = await tx.enqueue_batch([trial.add.call(number) for number in range(50)], then=trial.parents.call())
            doomed = await tx.enqueue_calls([trial.doomed.call("value") for _ in range(30)])

        blows = [blow for blow in plan(seed, seconds=25, every_seconds=1.5) if blow.kind is not Kind.API_KILLED]
        await Misfortune(world, redis, postgres, world.api()).happen(blows)
        await world.eventually(lambda: _nothing_to_follow(world))
        counts = await world.all_finished(90)

        told = await world.rows("SELECT job_id, count(*) FROM trial_effects WHERE key LIKE 'trial.doomed:%' GROUP BY 1")
        effects = await world.effects()
        assert counts == {"succeeded": JOBS + 50 + 1 + 30, "dead": 30}
        assert {key: count for key, count in effects.items() if key.isdecimal()} == {str(n): 1 for n in range(JOBS)}
        assert {row[0]: row[1] for row in told} == dict.fromkeys(doomed, 1)
        ((seen,),) = await world.rows("SELECT result ->> 'states' FROM jobs WHERE id = $1", batch.then_id)
        assert msgspec.json.decode(seen) == {str(number): "succeeded" for number in range(50)}
        await all_was_followed(world)


async def _nothing_to_follow(world: World) -> bool:
    return not await world.any_row("SELECT 1 FROM job_endings") and not await world.any_row(
        "SELECT 1 FROM jobs WHERE waits_for > 0"
    )


async def all_was_followed(world: World) -> None:
    """Hold the record against the order that the links demand."""
    assert await world.rows("SELECT 1 FROM job_parents") != []
    assert await world.rows(TOO_EARLY) == []
    assert await world.rows("SELECT 1 FROM job_parents WHERE satisfied_at IS NULL") == []
    assert await world.rows("SELECT 1 FROM job_endings") == []
