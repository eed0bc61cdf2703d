"""A bus within one process dies: what lay in memory is gone, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from headrace.in_process.bus import in_process
from headrace.settings import Settings
from tests.bus import TABLE, application

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parent.parent.parent
PUBLISHED = 400
PATIENCE_SECONDS = 30.0
LEFT = "SELECT NOT EXISTS (SELECT FROM checkpoints JOIN lanes USING (lane) WHERE head > position)"


async def test_every_effect_is_there_once_when_the_process_was_killed(database_url: str) -> None:
    """SIGKILL while it publishes and handles; the next process fills its lanes from the record and goes on."""
    settings = Settings(database_url=database_url, lease_seconds=1.0, shutdown_seconds=3.0)
    driver = await asyncpg.connect(database_url)
    await driver.execute(TABLE)
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), **settings.as_environment()}
    program = subprocess.Popen(  # noqa: ASYNC220, S603 - our own, killed below
        [sys.executable, "-m", "tests.bus", str(PUBLISHED)], env=environment, cwd=ROOT
    )
    await _until(driver, "SELECT count(*) >= 50 FROM seen")
    program.kill()
    program.wait()

    async with in_process(settings, application):
        published = await driver.fetchval("SELECT count(*) FROM event_log")
        await _until(driver, f"SELECT count(*) >= {2 * published} FROM seen")  # noqa: S608 - a number
        await _until(
            driver, "SELECT NOT EXISTS (SELECT FROM checkpoints JOIN lanes USING (lane) WHERE head > position)"
        )

    numbers = await driver.fetch("SELECT by, array_agg(number ORDER BY seq) AS numbers FROM seen GROUP BY by, key")
    await driver.close()
    assert all(row["numbers"] == sorted(set(row["numbers"])) for row in numbers)
    assert sum(len(row["numbers"]) for row in numbers) == 2 * published


async def _until(driver: asyncpg.Connection[asyncpg.Record], question: str) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await driver.fetchval(question):
            await asyncio.sleep(0.01)
