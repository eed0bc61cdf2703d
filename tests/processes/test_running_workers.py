"""Real workers: how fast a cancel arrives, where child processes end, whom a blocked loop accuses, which queues."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import msgspec
import psutil
import pytest

from headrace.api.gauges import fill_gauges
from headrace.diagnostics import echo, sleep
from headrace.jobs.call import Options
from headrace.telemetry.metrics import Metrics
from tests import running, trial
from tests.integration.api_road import KEY, open_api
from tests.job_processes import World, open_world, settings_of
from tests.otlp import collector

pytestmark = pytest.mark.processes

_SAMPLED = f"00-{'5' * 32}-{'7' * 16}-01"


@pytest.fixture
async def world(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """Processes that know the tasks of `running`."""
    settings = msgspec.structs.replace(
        settings_of(database_url, redis_url),
        applications="tests.trial:application,tests.running:application",
        worker_processes=2,
        api_key=KEY,
    )
    async with open_world(settings, tmp_path) as opened:
        yield opened


async def pid_noted(world: World, directory: Path, place: int) -> int:
    """Wait until that many processes have written down who they are, and return the last one."""
    notes = directory / "notes"

    async def there() -> bool:
        return notes.exists() and len(notes.read_text().splitlines()) > place

    await world.eventually(there)
    return int(notes.read_text().splitlines()[place].split()[1])


def said(directory: Path) -> list[str]:
    """Return the lines of the workers' logs."""
    return [line for log in directory.glob("worker*.log") for line in log.read_text().splitlines()]


async def gone(pid: int) -> bool:
    """Tell whether a process is no more, or a corpse that its parent has yet to bury."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def test_cancel_arrives_within_a_second_again_and_again(world: World) -> None:
    """POST cancel until the record says `cancelled`: twelve running jobs, one by one, on a worker that runs others."""
    world.relay()
    world.worker()
    await world.registered("worker")
    await world.enqueue(*(sleep.call(60.0) for _ in range(5)))
    took = []
    async with open_api(world.settings) as (client, _):
        for _ in range(12):
            (job_id,) = await world.enqueue(trial.write.call("never", 60.0))
            await world.runner_of(job_id)

            begin = time.monotonic()
            answer = await client.post(f"/v1/jobs/{job_id}/cancel")
            job = await world.finished(job_id)
            took.append(time.monotonic() - begin)

            assert (answer.status_code, job.state.value) == (202, "cancelled")
    assert max(took) < 1.0, took
    assert sorted(took)[len(took) // 2] < 0.4, took  # by the bell, not by the poll
    assert await world.effects() == {}


async def test_cancelled_queued_job_never_runs(world: World) -> None:
    """No worker: the record says `cancelled` with the answer."""
    world.relay()
    (job_id,) = await world.enqueue(echo.call(1))
    async with open_api(world.settings) as (client, _):
        answer = await client.post(f"/v1/jobs/{job_id}/cancel")
    world.worker()
    await world.registered("worker")
    (after,) = await world.enqueue(echo.call(2))
    await world.finished(after)

    assert answer.json()["state"] == "cancelled"
    assert await world.rows("SELECT state::text, started_at FROM jobs WHERE id = $1", job_id) == [("cancelled", None)]


async def test_child_processes_end_with_their_worker_when_it_is_told_to_end(world: World, tmp_path: Path) -> None:
    """SIGTERM: the run is handed back, its process is gone, an idle one too."""
    world.relay()
    worker = world.worker()
    await world.registered("worker")
    (first,) = await world.enqueue(running.process.call(1))
    idle = msgspec.json.decode((await world.finished(first)).result)[1]
    (job_id, _) = await world.enqueue(running.spin.call(str(tmp_path)), running.spin.call(str(tmp_path)))
    busy = [await pid_noted(world, tmp_path, place) for place in (0, 1)]

    worker.send_signal(signal.SIGTERM)
    worker.wait(timeout=20)

    assert idle in busy
    for pid in busy:
        await world.eventually(partial(gone, pid), 5)
    assert await world.rows("SELECT state::text, attempt FROM jobs WHERE id = $1", job_id) == [("pending", 0)]


async def test_worker_ends_in_time_when_a_thread_is_stuck(world: World, tmp_path: Path) -> None:
    """SIGTERM: the run is handed back, and nobody waits for its thread."""
    world.relay()
    worker = world.worker()
    await world.registered("worker")
    (job_id,) = await world.enqueue(running.stuck_thread.call(str(tmp_path)))
    await world.runner_of(job_id)

    begin = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    worker.wait(timeout=25)

    assert time.monotonic() - begin < 15.0
    assert await world.rows("SELECT state::text, attempt FROM jobs WHERE id = $1", job_id) == [("pending", 0)]


async def test_no_orphan_is_left_when_the_worker_is_killed(world: World, tmp_path: Path) -> None:
    """SIGKILL: the kernel ends the busy child, and the job runs again elsewhere."""
    world.relay()
    world.worker()
    (pid,) = await world.registered("worker")
    await world.enqueue(running.spin.call(str(tmp_path)))
    child = await pid_noted(world, tmp_path, 0)

    os.kill(pid, signal.SIGKILL)
    begin = time.monotonic()
    await world.eventually(lambda: gone(child), 5)

    assert time.monotonic() - begin < 2.0


async def test_task_that_blocks_the_loop_is_named(world: World, tmp_path: Path) -> None:
    """time.sleep(2) on the loop: a log line with the stack, an event on the run's span, a row, a metric."""
    with collector() as received:
        world.variables = received.environment
        world.relay()
        world.worker()
        await world.registered("worker")
        (job_id, other) = await world.enqueue(
            trial.block.options(Options(delay_seconds=1.0)).call(2.0), sleep.call(30.0)
        )
        await world.rows("UPDATE jobs SET traceparent = $2 WHERE id = $1", job_id, _SAMPLED)
        await world.finished(job_id)
        await world.eventually(lambda: world.any_row("SELECT 1 FROM loop_blocks"))
        spans = received.wait_for(lambda all_: any(span.trace_id == "5" * 32 for span in all_))

    (row,) = await world.rows("SELECT task, blocks, seconds, last_job_id, last_stack FROM loop_blocks")
    assert (row["task"], row["blocks"], row["last_job_id"]) == ("trial.block", 1, job_id)
    assert 1.5 < row["seconds"] < 4.0
    assert "time.sleep(seconds)" in row["last_stack"]
    (line,) = [msgspec.json.decode(line) for line in said(tmp_path) if '"loop_blocked"' in line]
    assert (line["task"], line["job_id"], line["trace_id"]) == ("trial.block", str(job_id), "5" * 32)
    assert "time.sleep(seconds)" in line["stack"]
    span = next(span for span in spans if span.trace_id == "5" * 32)
    assert [name for name, _ in span.events] == ["headrace.loop.blocked"]
    metrics = Metrics()
    await fill_gauges(metrics, world.record)
    assert 'headrace_loop_blocks{task="trial.block"} 1.0' in metrics.render().decode()
    assert other


async def test_nobody_is_accused_when_the_process_was_paused(world: World, tmp_path: Path) -> None:
    """SIGSTOP stops the watch with the loop: what the loop was at has nothing to do with it."""
    world.relay()
    world.worker()
    (pid,) = await world.registered("worker")
    await world.enqueue(sleep.call(60.0))

    for _ in range(2):
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(1.5)  # the pause itself
        os.kill(pid, signal.SIGCONT)
        (after,) = await world.enqueue(echo.call(1))
        await world.finished(after)

    assert not [line for line in said(tmp_path) if "loop_blocked" in line]


async def test_workers_serve_the_queues_that_their_settings_name(world: World) -> None:
    """Two workers of different sets: each job runs where its queue is served, and one queue without a worker waits."""
    both = world.settings
    world.relay()
    pids = {}
    for queues in ("mail,slow", "bulk"):
        world.settings = msgspec.structs.replace(both, queues=queues, worker_concurrency=3)
        before = set(await world.pids("worker"))
        world.worker()
        await world.registered("worker", len(before) + 1)
        (pids[queues],) = set(await world.pids("worker")) - before
    calls = [
        running.process.options(Options(queue=queue)).call(place)
        for place, queue in enumerate(["mail", "slow", "bulk", "bulk"])
    ]
    ids = await world.enqueue(*calls, echo.options(Options(queue="nobody")).call(1))
    results = [msgspec.json.decode((await world.finished(job_id)).result) for job_id in ids[:4]]

    workers = [result[2] for result in results]
    assert workers == [pids["mail,slow"], pids["mail,slow"], pids["bulk"], pids["bulk"]]
    assert await world.rows("SELECT state::text FROM jobs WHERE id = $1", ids[4]) == [("pending",)]
    slots = "SELECT slots FROM processes WHERE role = 'worker' AND expires_at > now()"
    assert await world.rows(slots) == [(3,), (3,)]
