"""Relays and workers are killed while a workflow runs: no job of it starts too early, none is left behind."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headrace.jobs.workflow import Workflow
from headrace.transaction import transaction
from tests import trial
from tests.job_processes import World, open_world, settings_of

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


def graph(seed: int) -> Workflow:
    """Return a workflow in which each job waits for up to three of the twenty before it, and writes one effect."""
    chance = random.Random(seed)  # noqa: S311 - a graph that can be made again
    workflow = Workflow()
    for number in range(JOBS):
        before = range(max(0, number - 20), number)
        parents = chance.sample(before, min(len(before), chance.randint(0, 3)))
        fails = int(chance.random() < 0.1)
        call = trial.write.call(str(number), 0.02, fails)
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
    assert await world.rows(TOO_EARLY) == []
    assert await world.rows("SELECT 1 FROM job_parents WHERE satisfied_at IS NULL") == []
    assert await world.rows("SELECT 1 FROM job_endings") == []
