"""What is on record was written by other code: what this code cannot read is dead with the reason, and visible."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from headrace.database.states import JobState
from headrace.diagnostics import echo
from headrace.jobs.call import Call
from tests.integration.api_road import KEY, open_api
from tests.job_processes import World, open_world, settings_of

pytestmark = pytest.mark.processes


@pytest.fixture
async def world(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """A relay and a worker of today's code."""
    settings = msgspec.structs.replace(settings_of(database_url, redis_url), api_key=KEY)
    async with open_world(settings, tmp_path) as opened:
        opened.relay()
        opened.worker()
        await opened.registered("worker")
        yield opened


@pytest.mark.parametrize("args", [b'{"a": 1, "removed": 2}', b'{"a": "one"}', b"{}", b"[1]"])
async def test_job_is_dead_with_the_reason_when_its_arguments_fit_no_more(world: World, args: bytes) -> None:
    """A parameter was removed, changed its type, or is required now: one attempt, and the queue moves on."""
    (outdated,) = await world.enqueue(Call(task="trial.add", args=msgspec.Raw(args), max_attempts=10))
    (after,) = await world.enqueue(echo.call("after"))

    after_it = await world.finished(after)
    job = await world.finished(outdated)

    assert after_it.state is JobState.SUCCEEDED
    assert (job.state, [error.outcome for error in job.errors]) == (JobState.DEAD, ["rejected"])
    assert "the arguments do not fit the task trial.add of this code" in job.errors[0].message


async def test_job_waits_visibly_when_no_worker_knows_its_task(world: World) -> None:
    """It is pending, `explain` says why, it is in nobody's way, and it is nobody's attempt."""
    (unknown,) = await world.enqueue(Call(task="trial.of_tomorrow", args=msgspec.Raw(b"{}"), priority=9))
    (after,) = await world.enqueue(echo.call("after"))

    after_it = await world.finished(after)
    async with open_api(world.settings) as (client, _):
        explained = (await client.get(f"/v1/jobs/{unknown}/explain")).json()

    assert after_it.state is JobState.SUCCEEDED
    assert explained["state"] == "pending"
    assert "no_worker" in [reason["code"] for reason in explained["reasons"]]
    assert await world.rows("SELECT attempt, fence FROM jobs WHERE id = $1", unknown) == [(0, 0)]
