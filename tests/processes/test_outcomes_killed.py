"""Jobs that kill their workers are quarantined, and deploys with two versions of the code: real processes."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from headrace.database.states import JobState
from headrace.diagnostics import echo
from headrace.jobs.redrive import Changes, redrive_job
from headrace.transaction import transaction
from tests import outcomes
from tests.job_processes import World, open_world, processes, settings_of

pytestmark = pytest.mark.processes


@pytest.fixture
async def world(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """Processes of the application `outcomes` with a lease of one second."""
    settings = msgspec.structs.replace(
        settings_of(database_url, redis_url), applications="tests.outcomes:application", worker_concurrency=1
    )
    async with open_world(settings, tmp_path) as opened:
        yield opened


async def test_job_is_quarantined_when_it_has_killed_three_workers_and_runs_when_it_is_mended(world: World) -> None:
    """Three deaths, not ten; the hook is told; the queue moves on; with other arguments the same job succeeds."""
    world.relay()
    world.worker()
    world.worker()
    await world.registered("worker", 2)

    (poison,) = await world.enqueue(outcomes.poison.call(signals=5))
    dead = await world.finished(poison)
    (after,) = await world.enqueue(echo.call("after"))
    after_it = await world.finished(after)
    await world.eventually(lambda: world.any_row("SELECT 1 FROM trial_effects WHERE key LIKE 'outcomes.poison: %'"))
    async with transaction(world.record) as tx:
        await redrive_job(tx, poison, attempts=10, changes=Changes(outcomes.poison.call(signals=0).args))
    mended = await world.finished(poison)

    assert (dead.state, dead.attempt, dead.max_attempts) == (JobState.DEAD, 3, 10)
    assert [error.outcome for error in dead.errors] == ["lost"] * 3
    assert [error.type for error in dead.errors] == ["WorkerLost", "WorkerLost", "Quarantined"]
    assert after_it.state is JobState.SUCCEEDED
    assert (mended.state, mended.attempt, bytes(mended.result)) == (JobState.SUCCEEDED, 4, b"4")
    assert [msgspec.json.decode(one.args) for one in mended.former_args] == [{"signals": 5}]


async def test_new_jobs_wait_for_the_new_version_and_old_names_run_when_the_old_one_ends(
    world: World, tmp_path: Path
) -> None:
    """A rolling deploy: what the old workers do not know is pending, and is lost on nobody."""
    old = msgspec.structs.replace(world.settings, applications="tests.trial:application")
    (tmp_path / "old").mkdir()
    async with processes(old, tmp_path / "old") as before:
        world.relay()
        old_worker = before.worker()
        await world.registered("worker")
        ids = await world.enqueue(*(outcomes.wait.call(0.0) for _ in range(20)))
        await world.rows("UPDATE jobs SET task = 'outcomes.nap' WHERE id = $1", ids[0])
        (known,) = await world.enqueue(echo.call(1))
        await world.finished(known)
        waiting = await world.counts()
        world.worker()
        await world.registered("worker", 2)
        jobs = [await world.finished(job_id) for job_id in ids[:10]]
        old_worker.send_signal(signal.SIGTERM)
        old_worker.wait(timeout=20)
        jobs += [await world.finished(job_id) for job_id in ids[10:]]

    assert waiting == {"pending": 20, "succeeded": 1}
    assert {(job.state, job.attempt, len(job.errors)) for job in jobs} == {(JobState.SUCCEEDED, 1, 0)}


async def test_innocent_jobs_survive_when_one_beside_them_kills_each_worker(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """All of them lose two workers, together; then each has a time for itself, and only the culprit is quarantined."""
    settings = msgspec.structs.replace(
        settings_of(database_url, redis_url), applications="tests.outcomes:application", worker_concurrency=20
    )
    async with open_world(settings, tmp_path) as world:
        innocent = await world.enqueue(*(outcomes.wait.call(0.8) for _ in range(4)))
        (poison,) = await world.enqueue(outcomes.poison.call(signals=5))
        world.relay()
        world.worker()
        jobs = [await world.finished(job_id, 60) for job_id in [poison, *innocent]]

    assert [job.state for job in jobs] == [JobState.DEAD] + [JobState.SUCCEEDED] * 4
    assert jobs[0].errors[-1].type == "Quarantined"
