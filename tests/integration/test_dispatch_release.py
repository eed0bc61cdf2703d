"""Which jobs are released to the belt, in which order, and when."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import asyncpg
import msgspec
import pytest
from redis.asyncio import Redis

from headrace.clock import new_id, now
from headrace.database.states import JobState
from headrace.diagnostics import echo, sleep
from headrace.jobs.belt import stream_of
from headrace.jobs.call import Options
from headrace.relay.belt_upkeep import remove_dead_consumers, return_lost
from headrace.relay.dispatch import Dispatcher, expire_jobs
from tests.road import Road, entries_of, eventually, relaying, running, working

_PROCESS = """
    INSERT INTO processes (id, role, host, pid, queues, tasks, slots, expires_at)
    VALUES ($1, 'worker', 'here', 1, $2, $3, $4, now() + interval '1 minute')
"""


async def register(road: Road, *, slots: int = 1000, queues: list[str] | None = None) -> str:
    """Put a worker on record that knows all tasks; return its name on the belt."""
    worker = new_id()
    await road.driver.execute(_PROCESS, worker, queues, sorted(road.registry.tasks), slots)
    return str(worker)


async def on_belt(redis: Redis, queue: str = "default") -> list[object]:
    """Return the arguments `value` of the jobs on a queue's stream, in order."""
    entries = await entries_of(redis, stream_of(queue))
    return [msgspec.json.decode(claim.args)["value"] for _, claim in entries]


async def test_higher_priority_goes_first_then_the_older(road: Road) -> None:
    """Priority 9 before 5 before 0, and within one the order of calling."""
    await register(road)
    for n, priority in enumerate([5, 0, 9, 5, 9, 0]):
        await road.enqueue(echo.options(Options(priority=priority)).call(n))

    await Dispatcher(road.redis).run_once(road.driver)

    assert await on_belt(road.redis) == [2, 4, 0, 3, 1, 5]


async def test_no_more_is_released_than_the_workers_have_room_for(road: Road) -> None:
    """The rest stays in the record, where it can be reordered and cancelled."""
    await register(road, slots=3)
    await register(road, slots=2, queues=["default"])
    await register(road, slots=50, queues=["elsewhere"])
    await road.enqueue(*(echo.call(n) for n in range(20)))
    dispatcher = Dispatcher(road.redis)

    released = await dispatcher.run_once(road.driver)
    more = await dispatcher.run_once(road.driver)

    assert (released, more) == (5, -1)
    assert await road.counts() == {"queued": 5, "pending": 15}


async def test_nothing_is_released_when_no_worker_lives(road: Road) -> None:
    """Jobs without a worker wait as `pending`, not on a belt that nobody reads."""
    await road.enqueue(echo.call(1))
    await road.driver.execute(_PROCESS, new_id(), None, ["diagnostics.echo"], 10)
    await road.driver.execute("UPDATE processes SET expires_at = now() - interval '1 second'")

    released = await Dispatcher(road.redis).run_once(road.driver)

    assert released <= 0
    assert await road.counts() == {"pending": 1}


async def test_nothing_is_released_when_the_queue_is_paused(road: Road) -> None:
    """Another queue goes on; after the resume the first does too."""
    await register(road)
    await road.driver.execute("INSERT INTO queues (name, paused) VALUES ('slow', true)")
    (held,) = await road.enqueue(echo.options(Options(queue="slow")).call(1))
    (free,) = await road.enqueue(echo.call(2))

    await Dispatcher(road.redis).run_once(road.driver)
    states = [(await road.job(job_id)).state for job_id in (held, free)]
    await road.driver.execute("UPDATE queues SET paused = false")
    await Dispatcher(road.redis).run_once(road.driver)

    assert states == [JobState.PENDING, JobState.QUEUED]
    assert (await road.job(held)).state is JobState.QUEUED


async def test_delayed_job_is_released_when_its_time_has_come(road: Road) -> None:
    """Not before, and soon after."""
    async with running(road):
        (job_id,) = await road.enqueue(echo.options(Options(delay_seconds=0.6)).call(1))
        job = await road.finished(job_id)

    assert job.started_at is not None
    late = job.started_at - job.run_at
    assert timedelta(0) <= late < timedelta(seconds=1.5)


async def test_job_expires_when_it_did_not_start_in_time(road: Road) -> None:
    """Waiting, delayed or on the belt: it is given up, visibly, and a running one is not."""
    worker = await register(road)
    soon = now() + timedelta(hours=1)
    waiting, delayed, queued, ran = await road.enqueue(
        echo.options(Options(expires_at=soon, queue="none")).call(1),
        echo.options(Options(expires_at=soon, delay_seconds=60)).call(2),
        echo.options(Options(expires_at=soon)).call(3),
        echo.options(Options(expires_at=soon)).call(4),
    )
    for job_id, states in ((queued, ["queued"]), (ran, ["queued", "running"])):
        for state in states:
            await road.driver.execute(
                "UPDATE jobs SET state = CAST($1::text AS job_state) WHERE id = $2", state, job_id
            )
    await road.driver.execute("UPDATE jobs SET expires_at = now() - interval '1 second', worker_id = $1::uuid", worker)

    await expire_jobs(road.driver)

    states = [(await road.job(job_id)).state.value for job_id in (waiting, delayed, queued, ran)]
    assert states == ["expired", "expired", "expired", "running"]


async def test_new_queue_is_served_when_a_job_names_it(road: Road) -> None:
    """A queue needs no setting up: worker and relay learn its name from the first job."""
    async with running(road):
        (job_id,) = await road.enqueue(echo.options(Options(queue="brand-new {queue}")).call(1))

        job = await road.finished(job_id)

    assert job.state is JobState.SUCCEEDED
    assert await road.driver.fetchval("SELECT count(*) FROM queues WHERE name = 'brand-new {queue}'") == 1


async def test_two_dispatchers_release_no_job_twice(road: Road) -> None:
    """Should two lead for a moment, each job is still released once."""
    await register(road)
    await road.enqueue(*(echo.call(n) for n in range(300)))
    other = await asyncpg.connect(road.settings.database_url)

    await asyncio.gather(*(Dispatcher(road.redis).run_once(driver) for driver in (road.driver, other)))
    await other.close()

    values = await on_belt(road.redis)
    assert sorted(values, key=str) == sorted(range(300), key=str)
    assert await road.driver.fetchval("SELECT count(*) FROM jobs WHERE fence = 1") == 300


async def test_idle_road_starts_a_job_at_once(road: Road) -> None:
    """The bell wakes the relay: from commit to result in well under the poll of 100 ms, most of the time."""
    async with running(road):
        (first,) = await road.enqueue(echo.call(0))
        await road.finished(first)
        waits: list[float] = []
        for n in range(9):
            begin = time.monotonic()
            (job_id,) = await road.enqueue(echo.call(n))
            await road.finished(job_id)
            waits.append(time.monotonic() - begin)

    assert sorted(waits)[4] < 0.25


@pytest.mark.parametrize("fault", ["flushed", "wrong type", "group deleted", "stream deleted"])
async def test_jobs_run_when_the_belt_lost_them(road: Road, fault: str) -> None:
    """What was released and is on no belt any more is released again, whatever happened to the belt."""
    settings = msgspec.structs.replace(road.settings, worker_concurrency=5)
    stream = stream_of("default")
    async with relaying(settings), working(road, settings):
        await road.enqueue(*(sleep.call(0.3) for _ in range(30)))
        await eventually(lambda: _some_run(road))

        match fault:
            case "flushed":
                await road.redis.flushdb()
            case "wrong type":
                await road.redis.delete(stream)
                await road.redis.set(stream, "not a stream")
            case "group deleted":
                await road.redis.xgroup_destroy(stream, "workers")
            case _:
                await road.redis.delete(stream)
        counts = await road.all_finished(30)

    assert counts == {"succeeded": 30}
    assert await road.driver.fetchval("SELECT max(attempt) FROM jobs") == 1


async def _some_run(road: Road) -> bool:
    return (await road.counts()).get("running", 0) > 0


async def test_lost_jobs_are_found_and_waiting_ones_left_alone(road: Road) -> None:
    """Read by nobody: waits. Read by a worker that died, or on no stream: released again, with a higher fence."""
    await register(road)
    await road.enqueue(*(echo.call(n) for n in range(3)))
    await Dispatcher(road.redis).run_once(road.driver)
    stream = stream_of("default")
    await road.redis.xgroup_create(stream, "workers", id="0")
    await road.redis.xreadgroup("workers", "dead", {stream: ">"}, count=1)
    (_, (lost, _), _) = await entries_of(road.redis, stream)
    await road.redis.xdel(stream, lost)
    await road.driver.execute("UPDATE jobs SET released_at = now() - interval '3 seconds'")

    returned = await return_lost(road.driver, road.redis)

    assert returned == 2
    rows = await road.driver.fetch("SELECT args->'value' AS n, state::text FROM jobs ORDER BY id")
    assert [row["state"] for row in rows] == ["pending", "pending", "queued"]


async def test_consumers_of_dead_workers_go_away_with_their_entries(road: Road) -> None:
    """Nothing is left of them on the stream, and live ones keep theirs."""
    live = await register(road)
    await road.enqueue(*(echo.call(n) for n in range(4)))
    await Dispatcher(road.redis).run_once(road.driver)
    stream = stream_of("default")
    await road.driver.execute("INSERT INTO queues (name) VALUES ('default') ON CONFLICT DO NOTHING")
    await road.redis.xgroup_create(stream, "workers", id="0")
    for consumer in ("dead", live):
        await road.redis.xreadgroup("workers", consumer, {stream: ">"}, count=2)

    removed = await remove_dead_consumers(road.driver, road.redis)

    (left,) = await road.redis.xinfo_consumers(stream, "workers")
    assert (removed, left["name"], left["pending"]) == (1, live.encode(), 2)
    assert await road.redis.xlen(stream) == 2


@pytest.mark.parametrize(
    "fields",
    [
        {b"x": b"garbage"},
        {b"j": b"\xc1"},
        {b"j": msgspec.msgpack.encode([1, 2, 3])},
        {b"j": msgspec.msgpack.encode([str(new_id()), 2**40, 1, 1, "t", "q", "{}", "", now()])},
        {b"j": msgspec.msgpack.encode([str(new_id()), 1, 1, 1, "t", "q", "{}", "", now()])},
        {b"a": b"1", b"b": b"2", b"c": b"3"},
    ],
)
async def test_foreign_entries_are_taken_away_and_the_queue_moves_on(road: Road, fields: dict[bytes, bytes]) -> None:
    """Garbage on the stream, an entry of another version, a job that never was: dropped, and jobs go on."""
    stream = stream_of("default")
    await road.redis.xadd(stream, dict(fields.items()))
    async with running(road):
        (job_id,) = await road.enqueue(echo.call(1))

        job = await road.finished(job_id)

        async def empty() -> bool:
            return await road.redis.xlen(stream) == 0

        await eventually(empty)

    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)
