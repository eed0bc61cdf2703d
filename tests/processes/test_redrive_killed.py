"""A redrive goes on although the worker that is at it is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from headrace.subscribers.checkpoints import register
from headrace.subscribers.redrive import Asked, Selection, start_redrive
from headrace.transaction import transaction
from tests import dead_letters
from tests.dead_letters import Letters, Packed, ship
from tests.job_processes import World, processes

pytestmark = pytest.mark.processes

DELIVERIES = 120


@pytest.fixture
async def world(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """Processes of the application whose deliveries die, with a lease of one second."""
    await dead_letters.prepare(database_url)
    async with processes(dead_letters.settings_of(database_url, redis_url), tmp_path) as opened:
        await register(opened.record.engine, [ship])
        yield opened


async def test_each_effect_happens_once_when_the_worker_is_killed_in_the_middle(world: World) -> None:
    """The next worker goes on where the redrive was: nothing is lost, nothing is done twice, the count is right."""
    driver = await asyncpg.connect(world.settings.database_url)
    letters = Letters(world.record, driver)
    await letters.die([Packed(f"customer-{number}", number) for number in range(DELIVERIES)])
    await letters.mend()
    world.relay()
    world.worker()
    async with transaction(world.record) as tx:
        begun = await start_redrive(tx, Asked(ship.name, Selection(rate_per_second=60.0)))
    assert begun.job_id is not None

    await world.eventually(lambda: world.any_row("SELECT 1 FROM redrives WHERE done >= $1", DELIVERIES // 3))
    os.kill(await world.runner_of(begun.job_id), signal.SIGKILL)
    job = await world.finished(begun.job_id)
    counts = await world.all_finished()

    assert [error.outcome for error in job.errors] == ["lost"]
    assert bytes(job.result) == str(DELIVERIES).encode()
    assert counts == {"succeeded": DELIVERIES + 1}
    assert await letters.shipped() == list(range(DELIVERIES))
    await driver.close()
