"""A backlog of concurrency keys is in nobody's way: each pass touches a bounded number of rows, however many wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from headrace.clock import new_id
from headrace.database.driver import ONE_BY_ONE
from headrace.database.states import JobState
from headrace.diagnostics import echo
from headrace.jobs.call import Options
from headrace.relay.dispatch import Dispatcher
from tests.fleet import register
from tests.road import BOUND_SECONDS, Road, eventually

BACKLOG = 50_000
MOST_TOUCHED = 6_000
"""Rows that a pass reads or writes where it meets the backlog: a thousand are parked, in four steps each."""
MOST_TOUCHED_LATER = 600

_FILL = """
    INSERT INTO jobs (id, task, args, queue, state, max_attempts, trace_id, traceparent, run_at, concurrency_key)
    SELECT CAST(lpad(to_hex(n), 32, '0') AS uuid), 'diagnostics.echo', '{"value": 1}', 'default', 'pending', 9, '', '',
           now() - interval '1 hour', 'key-' || n % $2
    FROM generate_series(1, $1) AS n
"""
_TOUCHED = """
    SELECT (seq_tup_read + coalesce(idx_tup_fetch, 0) + n_tup_upd)::integer
    FROM pg_stat_xact_user_tables WHERE relname = 'jobs'
"""
_FINISH = """
    UPDATE jobs SET state = CASE WHEN state = 'queued' THEN 'running' ELSE 'succeeded' END::job_state
    WHERE state IN ('queued', 'running') AND id = ANY($1)
"""
_IN_FLIGHT = "SELECT id, concurrency_key FROM jobs WHERE state IN ('queued', 'running')"


async def touched(road: Road, dispatcher: Dispatcher) -> int:
    """Let a dispatcher make a pass; return how many rows of jobs it read or wrote."""
    async with road.driver.transaction():
        before: int = await road.driver.fetchval(_TOUCHED) or 0
        await dispatcher.run_once(road.driver)
        after: int = await road.driver.fetchval(_TOUCHED)
    return after - before


async def finish_all(road: Road) -> int:
    """End every job in flight; return how many."""
    ids = [row["id"] for row in await road.driver.fetch(_IN_FLIGHT)]
    for _ in ("claimed", "ended"):
        await road.driver.execute(_FINISH, ids)
    return len(ids)


async def fill(road: Road, *, keys: int) -> None:
    """Put the backlog on record, with this many distinct keys, and plan statements as a leader's connection does."""
    await road.driver.execute("; ".join(f"SET {name} = {value}" for name, value in ONE_BY_ONE.items()))
    await road.driver.execute(_FILL, BACKLOG, keys)
    await road.driver.execute("ANALYZE jobs")


async def test_others_go_when_a_backlog_of_one_busy_key_is_before_them(road: Road) -> None:
    """Fifty thousand jobs of one key: the next job comes through in a bounded number of bounded passes."""
    await register(road.driver, road.registry.tasks, slots=5)
    await fill(road, keys=1)
    (other,) = await road.enqueue(echo.call(1))
    dispatcher = Dispatcher(road.redis)

    passes: list[int] = []
    while (await road.job(other)).state is JobState.PENDING:
        passes.append(await touched(road, dispatcher))

    assert len(passes) < BACKLOG / 1000 + 10
    assert max(passes) < MOST_TOUCHED
    assert [row["concurrency_key"] for row in await road.driver.fetch(_IN_FLIGHT)].count("key-0") == 1

    (next_one,) = await road.enqueue(echo.call(2))
    later = await touched(road, dispatcher)

    assert (await road.job(next_one)).state is JobState.QUEUED
    assert later < MOST_TOUCHED_LATER


async def test_each_pass_fills_the_room_when_fifty_thousand_keys_wait(road: Road) -> None:
    """Every key is free: as many jobs go as there are slots, at the cost of that many."""
    await register(road.driver, road.registry.tasks, slots=20)
    await fill(road, keys=BACKLOG)
    dispatcher = Dispatcher(road.redis)

    for _ in range(5):
        rows = await touched(road, dispatcher)
        released = await finish_all(road)

        assert released >= 20
        assert rows < MOST_TOUCHED_LATER + 10 * (released - 20)


async def test_next_job_of_a_key_goes_when_the_one_before_has_ended(road: Road) -> None:
    """With fifty thousand jobs parked, those whose keys were let go come back at once, and no others are looked at."""
    await register(road.driver, road.registry.tasks, slots=20)
    await fill(road, keys=10)
    dispatcher = Dispatcher(road.redis)
    while await road.driver.fetchval("SELECT count(*) FROM jobs WHERE state = 'pending' AND NOT parked"):
        await touched(road, dispatcher)

    passes = []
    for _ in range(5):
        ended = await finish_all(road)
        passes.append(await touched(road, dispatcher))
        assert ended == 10

    assert len(await road.driver.fetch(_IN_FLIGHT)) == 10
    assert max(passes) < MOST_TOUCHED_LATER


@pytest.mark.parametrize("stranded", ["by a new leader", "by a cancelled head"])
async def test_parked_jobs_are_found_when_nobody_remembers_their_key(road: Road, stranded: str) -> None:
    """A walk along the parked keys brings back what no leader has noticed."""
    await register(road.driver, road.registry.tasks, slots=20)
    ids = await road.enqueue(*(echo.options(Options(concurrency_key=f"key-{n % 3}")).call(n) for n in range(9)))
    dispatcher = Dispatcher(road.redis)
    await dispatcher.run_once(road.driver)
    assert await finish_all(road) == 3
    if stranded == "by a new leader":
        dispatcher = Dispatcher(road.redis)
    else:
        await road.driver.execute("UPDATE queues SET paused = true")
        await dispatcher.run_once(road.driver)
        await road.driver.execute(
            "UPDATE jobs SET state = 'cancelled', finished_at = now() WHERE state = 'pending' AND NOT parked"
        )
        await road.driver.execute("UPDATE queues SET paused = false")

    async with asyncio.timeout(BOUND_SECONDS):
        while (await road.counts()).keys() & {"pending", "queued", "running"}:
            await dispatcher.run_once(road.driver)
            await finish_all(road)

    assert {(await road.job(job_id)).state for job_id in ids} <= {JobState.SUCCEEDED, JobState.CANCELLED}


@pytest.mark.parametrize("concurrency", [None, 10])
async def test_release_reads_what_it_releases_only_when_many_jobs_are_finished(
    road: Road, concurrency: int | None
) -> None:
    """Neither the one statement of queues without limits nor the gate looks at what is over."""
    await register(road.driver, road.registry.tasks, slots=10)
    await road.driver.execute("INSERT INTO queues (name, concurrency) VALUES ('default', $1)", concurrency)
    await fill(road, keys=1)
    await road.driver.execute("ALTER TABLE jobs DISABLE TRIGGER job_moved")
    await road.driver.execute("UPDATE jobs SET state = 'succeeded', concurrency_key = NULL")
    await road.driver.execute("ALTER TABLE jobs ENABLE TRIGGER job_moved")
    await road.driver.execute("VACUUM ANALYZE jobs")
    await road.enqueue(*(echo.call(n) for n in range(100)))

    rows = await touched(road, Dispatcher(road.redis))

    assert await finish_all(road) == 10
    assert rows < MOST_TOUCHED_LATER


async def test_others_go_when_a_backlog_of_an_unknown_task_is_before_them(road: Road) -> None:
    """Fifty thousand jobs of a version to come: parked in bounded passes, and back when a worker knows their task."""
    await register(road.driver, ["diagnostics.echo"], slots=5)
    await fill(road, keys=1)
    await road.driver.execute("UPDATE jobs SET task = 'of.tomorrow', concurrency_key = NULL")
    await road.driver.execute("VACUUM ANALYZE jobs")
    dispatcher = Dispatcher(road.redis)

    async def parked() -> int:
        return int(await road.driver.fetchval("SELECT count(*) FROM jobs WHERE state = 'pending' AND parked"))

    await eventually(lambda: _after_a_pass(road, dispatcher, lambda: _is(parked(), BACKLOG)), 30)
    (other,) = await road.enqueue(echo.call(1))
    later = [await touched(road, dispatcher) for _ in range(5)]  # now and then one looks through what is parked
    assert (await road.job(other)).state is JobState.QUEUED
    assert sorted(later)[2] < MOST_TOUCHED_LATER

    await register(road.driver, ["of.tomorrow"], slots=5)
    await eventually(lambda: _after_a_pass(road, dispatcher, lambda: _is(parked(), 0)), 30)
    assert await road.driver.fetchval("SELECT count(*) FROM jobs WHERE state = 'queued' AND task = 'of.tomorrow'") > 0


async def _after_a_pass(road: Road, dispatcher: Dispatcher, holds: Callable[[], Awaitable[bool]]) -> bool:
    await dispatcher.run_once(road.driver)
    return await holds()


async def _is(found: Awaitable[int], wanted: int) -> bool:
    return await found == wanted


async def test_job_of_an_unknown_task_blocks_no_key_when_it_is_first(road: Road) -> None:
    """It waits for a worker that knows it, and the next job with its key goes."""
    await register(road.driver, ["diagnostics.echo"], slots=20)
    await road.driver.execute(
        """
        INSERT INTO jobs (id, task, args, queue, state, max_attempts, trace_id, traceparent, run_at, concurrency_key)
        VALUES ($1, 'of.tomorrow', '{}', 'default', 'pending', 9, '', '', now() - interval '1 hour', 'a')
        """,
        new_id(),
    )
    (known,) = await road.enqueue(echo.options(Options(concurrency_key="a")).call(1))

    await Dispatcher(road.redis).run_once(road.driver)

    assert (await road.job(known)).state is JobState.QUEUED
