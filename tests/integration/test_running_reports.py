"""Progress on its way to the record and to whoever watches."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from sqlalchemy import event

from headrace.clock import new_id
from headrace.database.record import open_record
from headrace.diagnostics import echo
from headrace.jobs.model import Key
from headrace.jobs.progress import progress_channel
from headrace.settings import Settings
from headrace.tasks.reports import Reports
from tests.road import Road


async def running_jobs(road: Road, number: int) -> list[Key]:
    """Put jobs on record that run, and return their attempts."""
    ids = await road.enqueue(*(echo.call(n) for n in range(number)))
    await road.driver.execute("UPDATE jobs SET state = 'queued', fence = 1")
    await road.driver.execute("UPDATE jobs SET state = 'running', worker_id = $1", new_id())
    return [(job_id, 1) for job_id in ids]


async def dones(road: Road) -> list[int | None]:
    """Return how far the record says that each job is."""
    rows = await road.driver.fetch("SELECT (progress->>'done')::int FROM jobs ORDER BY id")
    return [row[0] for row in rows]


async def test_newest_values_of_all_runs_are_one_statement(road: Road) -> None:
    """However often they reported."""
    keys = await running_jobs(road, 3)
    reports = Reports(road.record)
    written: list[str] = []
    event.listen(
        road.record.engine.sync_engine, "before_cursor_execute", lambda *arguments: written.append(arguments[2])
    )
    for done in range(1000):
        for key in keys:
            reports.report(key, done=done, total=1000, note="")

    await reports.record_once()

    assert len(written) == 1
    assert await dones(road) == [999] * 3
    assert not any(reports.holds(key) for key in keys)


async def test_value_waits_when_somebody_holds_the_job(road: Road) -> None:
    """Two statements of many rows could wait for each other, so this one does not wait; it comes back."""
    held, free = await running_jobs(road, 2)
    reports = Reports(road.record)
    for key in (held, free):
        reports.report(key, done=1, total=2, note="")
    async with road.driver.transaction():
        await road.driver.execute("SELECT FROM jobs WHERE id = $1 FOR UPDATE", held[0])
        async with asyncio.timeout(5):
            await reports.record_once()
    before = await dones(road)

    await reports.record_once()

    assert (before, await dones(road)) == ([None, 1], [1, 1])


async def test_last_value_is_on_record_when_the_run_ends(road: Road) -> None:
    """Before its outcome is."""
    (key,) = await running_jobs(road, 1)
    reports = Reports(road.record)
    reports.report(key, done=7, total=7, note="done")

    await reports.finish(key)

    assert await dones(road) == [7]
    assert not reports.holds(key)


async def test_run_does_not_suffer_when_no_connection_is_accepted(road: Road, database_url: str) -> None:
    """What PostgreSQL says to who connects reaches us as the driver's own error, as while it starts up."""
    (key,) = await running_jobs(road, 1)
    nowhere = Settings(database_url=f"{database_url}_that_is_not_there")
    async with open_record(nowhere) as record:
        reports = Reports(record)
        reports.report(key, done=7, total=7, note="")

        await reports.finish(key)

    assert await dones(road) == [None]


async def test_value_of_a_run_that_lost_its_fence_is_not_written(road: Road) -> None:
    """The job is another attempt's by now."""
    (key,) = await running_jobs(road, 1)
    reports = Reports(road.record)
    reports.report((key[0], 0), done=7, total=7, note="")

    await reports.record_once()
    await reports.finish((key[0], 0))

    assert await dones(road) == [None]


@pytest.mark.parametrize("note", ["a\x00b", "a\ud800b", "x" * 5000], ids=["nul", "surrogate", "long"])
async def test_odd_note_is_made_storable(road: Road, note: str) -> None:
    """It holds up nobody else's progress."""
    odd, other = await running_jobs(road, 2)
    reports = Reports(road.record)
    reports.report(odd, done=1, total=2, note=note)
    reports.report(other, done=1, total=2, note="")

    await reports.record_once()

    assert await dones(road) == [1, 1]


async def test_newest_value_is_published_for_who_watches(road: Road) -> None:
    """One message a run, whatever it has reported since the last one."""
    (key,) = await running_jobs(road, 1)
    reports = Reports(road.record)
    async with road.redis.pubsub(ignore_subscribe_messages=True) as subscriptions:
        await subscriptions.subscribe(progress_channel(key[0]))
        for done in range(50):
            reports.report(key, done=done, total=50, note="")
        await reports.publish_once(road.redis)

        found = [await subscriptions.get_message(timeout=0.2) for _ in range(5)]

    assert [msgspec.json.decode(message["data"])["done"] for message in found if message] == [49]
