"""The faults of taskiq-redis's RedisStreamBroker, tried on ours; what needs a killed process is in tests/processes.

Each was reproduced on taskiq 0.13 with taskiq-redis 1.2.4.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from taskiq.exceptions import SendTaskError

from headrace.database.states import JobState
from headrace.diagnostics import echo, sleep
from headrace.jobs.belt import stream_of
from headrace.resources import build_broker
from tests import trial
from tests.own_stores import own_redis
from tests.road import Road, eventually, open_road, relaying, running, working


@pytest.fixture
async def own_road(database_url: str, tmp_path: Path) -> AsyncIterator[Road]:
    """A road with a Redis that no other test has, for faults of the whole server."""
    async with own_redis(tmp_path) as redis, open_road(database_url, redis.url) as opened:
        yield opened


async def test_job_runs_when_it_was_sent_before_any_worker_existed(road: Road) -> None:
    """RedisStreamBroker starts its group at `$`: what was sent before is never delivered."""
    await road.enqueue(echo.call(1))

    async with running(road):
        counts = await road.all_finished()

    assert counts == {"succeeded": 1}


async def test_long_job_runs_once_when_it_outlives_the_lease(road: Road, tmp_path: Path) -> None:
    """RedisStreamBroker runs a task longer than `idle_timeout` several times, on the same live worker."""
    async with running(road):
        (long,) = await road.enqueue(
            trial.mark.call(str(tmp_path), 3.5)
        )  # the lease is 1 s, a release is lost after 2 s
        while (await road.job(long)).state is not JobState.SUCCEEDED:
            await road.finished((await road.enqueue(echo.call("traffic")))[0])

    job = await road.job(long)
    assert (job.attempt, job.errors) == (1, [])
    assert [path.name for path in tmp_path.iterdir()] == [f"{long}-1"]  # noqa: ASYNC240 - a look at one directory


async def test_job_keeps_its_worker_when_it_blocks_the_event_loop(road: Road) -> None:
    """The lease is renewed by a thread: a task that blocks the loop for three leases is not taken away."""
    async with relaying(road.settings):
        (job_id,) = await road.enqueue(echo.call(1))
        async with working(road):
            await road.finished(job_id)
            (blocking,) = await road.enqueue(trial.block.call(3.0))
            job = await road.finished(blocking)

    assert (job.attempt, job.errors) == (1, [])


async def test_stream_is_empty_when_everything_is_done(road: Road) -> None:
    """RedisStreamBroker never trims: 200 handled tasks leave 200 entries."""
    async with running(road):
        await road.enqueue(*(echo.call(n) for n in range(200)))
        await road.all_finished()

        async def empty() -> bool:
            return await road.redis.xlen(stream_of("default")) == 0

        await eventually(empty)


async def test_unstarted_jobs_are_handed_back_when_the_worker_stops(road: Road) -> None:
    """RedisStreamBroker strands prefetched tasks at SIGTERM: 24 of 30. Here the next worker has them at once."""
    async with relaying(road.settings):
        async with working(road, at_once=1):
            await road.enqueue(*(sleep.call(0.05) for _ in range(30)))
            await eventually(lambda: _running(road, 20))
        left = await road.counts()
        async with working(road):
            begin = time.monotonic()
            counts = await road.all_finished()

    assert left.keys() <= {"pending", "queued", "succeeded"}
    assert counts == {"succeeded": 30}
    assert time.monotonic() - begin < 2.0
    assert await road.driver.fetchval("SELECT max(attempt) FROM jobs") == 1


async def test_running_jobs_are_handed_back_when_patience_is_over(road: Road) -> None:
    """A shutdown interrupts what takes too long, burns no attempt, and ends in time."""
    settings = msgspec.structs.replace(road.settings, shutdown_seconds=0.3)
    async with relaying(settings):
        async with working(road, settings):
            (job_id,) = await road.enqueue(trial.write.call("a", 60.0))
            await road.in_state(job_id, JobState.RUNNING)
            begin = time.monotonic()
        took = time.monotonic() - begin
        job = await road.job(job_id)

    assert took < 3.0
    assert job.state in {JobState.PENDING, JobState.QUEUED}
    assert (job.attempt, job.errors) == (0, [])
    assert await road.effects() == []


async def test_running_jobs_finish_when_the_worker_stops(road: Road) -> None:
    """Within the patience of a shutdown, running work ends as it would have."""
    async with relaying(road.settings):
        async with working(road):
            (job_id,) = await road.enqueue(sleep.call(0.5))
            await road.in_state(job_id, JobState.RUNNING)
        job = await road.job(job_id)

    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)


async def _running(road: Road, at_least: int) -> bool:
    return (await road.counts()).get("running", 0) >= at_least


async def test_concurrent_runs_see_their_own_job(road: Road) -> None:
    """Taskiq's dependency injection mixed up 49 of 50 concurrent tasks' contexts; our runs are passed explicitly."""
    settings = msgspec.structs.replace(road.settings, worker_concurrency=50)
    async with relaying(settings), working(road, settings):
        await road.enqueue(*(trial.late.call(str(n), 0.1) for n in range(50)))
        await road.all_finished()

    own = "SELECT count(*) FROM trial_effects e JOIN jobs j ON j.id = e.job_id AND j.args->>'key' = e.key"
    assert await road.driver.fetchval(own) == 50


async def test_worker_goes_on_when_redis_refuses_writes(own_road: Road) -> None:
    """A replica, a full memory: an error that is no lost connection ends no process."""
    async with running(own_road):
        await own_road.redis.config_set("maxmemory", "1")
        await own_road.redis.delete(stream_of("default"))
        (job_id,) = await own_road.enqueue(echo.call(1))
        await own_road.in_state(job_id, JobState.QUEUED)
        await own_road.redis.config_set("maxmemory", "0")
        job = await own_road.finished(job_id)

    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)


async def test_worker_goes_on_when_its_redis_connections_are_cut(own_road: Road) -> None:
    """RedisStreamBroker's listener dies with its connection, and the running task with it."""
    async with running(own_road):
        (long,) = await own_road.enqueue(sleep.call(0.5))
        await own_road.in_state(long, JobState.RUNNING)
        await own_road.redis.client_kill_filter(_type="normal", skipme=True)
        (after,) = await own_road.enqueue(echo.call(1))

        jobs = [await own_road.finished(job_id) for job_id in (long, after)]

    assert [(job.state, job.attempt) for job in jobs] == [(JobState.SUCCEEDED, 1)] * 2


async def test_worker_goes_on_when_its_database_connections_are_cut(road: Road) -> None:
    """Every connection of relay and worker is ended again and again under load: each effect happens once."""
    cut = """
        SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
    """
    async with running(road):
        for round_ in range(5):
            async with asyncio.timeout(10):
                while True:
                    try:
                        await road.enqueue(*(trial.write.call(f"{round_}-{n}", 0.02) for n in range(40)))
                        break
                    except Exception:  # noqa: BLE001, S110 - the test's own pool was cut too: what was not told is asked again
                        pass
            await eventually(lambda: _running(road, 1))
            await road.driver.fetchval(cut)
        counts = await road.all_finished(30)

    assert counts.keys() == {"succeeded"}
    assert await road.driver.fetchval("SELECT count(*) - count(DISTINCT job_id) FROM trial_effects") == 0
    assert await road.driver.fetchval("SELECT count(*) FROM trial_effects") == counts["succeeded"]


async def test_worker_and_relay_start_and_end_when_redis_is_away(road: Road) -> None:
    """The belt may come later: processes wait for it, and can be told to end meanwhile; the job waits on record."""
    away = msgspec.structs.replace(road.settings, redis_url="redis://127.0.0.1:1/0")
    async with relaying(away), working(road, away):
        (job_id,) = await road.enqueue(echo.call(1))
        await road.in_state(job_id, JobState.QUEUED)

    async with running(road):
        job = await road.finished(job_id)

    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)


async def test_broker_opens_the_record_when_a_client_starts_it(road: Road) -> None:
    """A program of somebody else's sends as Taskiq users expect: startup, kiq, shutdown."""
    broker = build_broker(road.settings, road.registry)
    with pytest.raises(SendTaskError):
        await trial.add.kiq(1, 2)

    await broker.startup()
    sent = await trial.add.kiq(1, 2)
    await broker.shutdown()

    assert (await road.job(UUID(sent.task_id))).state is JobState.PENDING
