"""What the record is asked for all day long never reads all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import event, text

from headrace.clock import now
from headrace.database.record import Record
from headrace.database.states import JobState
from headrace.jobs.prune import forget_jobs, prune_jobs
from headrace.jobs.queries import JobFilter, page_of_jobs
from headrace.jobs.standing import queue_standings

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

FILL = text("""
    INSERT INTO jobs (id, task, args, queue, state, max_attempts, trace_id, traceparent)
    SELECT CAST(lpad(to_hex(n), 32, '0') AS uuid), CASE WHEN n = 1 THEN 'rare' ELSE 'usual' END, '{}', 'default',
           'succeeded', 1, lpad(to_hex(n), 32, '0'), ''
    FROM generate_series(1, CAST(:jobs AS integer)) AS n
""")


@contextmanager
def noted(record: Record) -> Iterator[list[tuple[str, tuple[object, ...]]]]:
    """Note what is asked within the block."""
    asked: list[tuple[str, tuple[object, ...]]] = []

    def note(_: Connection, __: object, statement: str, parameters: tuple[object, ...], *___: object) -> None:
        asked.append((statement, parameters))

    event.listen(record.engine.sync_engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(record.engine.sync_engine, "before_cursor_execute", note)


async def plans(record: Record, asked: list[tuple[str, tuple[object, ...]]], *, seqscan: str = "off") -> list[str]:
    """Return the plans of what was asked of jobs, by a planner that avoids reading whole tables where it is told to."""
    async with record.engine.connect() as connection:
        await connection.execute(text(f"SET LOCAL enable_seqscan = {seqscan}"))
        found = [
            (await connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)).scalars().all()
            for statement, parameters in asked
            if "FROM jobs" in statement
        ]
    return ["\n".join(lines) for lines in found]


async def test_jobs_are_found_by_an_index_when_they_are_counted_or_listed(record: Record) -> None:
    """No statement of a scrape or a listing reads the table of jobs as a whole."""
    async with record.engine.begin() as connection:
        await connection.execute(FILL, {"jobs": 5000})

    with noted(record) as asked:
        async with record.engine.connect() as connection:
            await queue_standings(connection, {})
        for chosen in (
            JobFilter(task="rare"),
            JobFilter(queue="mail"),
            *(JobFilter(state=state) for state in JobState),
        ):
            await page_of_jobs(record, chosen, limit=50)

    found = await plans(record, asked)
    assert len(found) > 10
    assert not [plan for plan in found if "Seq Scan on jobs" in plan]


async def test_each_job_is_looked_up_by_itself_when_many_are_pruned(record: Record) -> None:
    """No portion begins with a list of all that any job might be wanted for: links, keys, endings."""
    async with record.engine.begin() as connection:
        await connection.execute(FILL, {"jobs": 5000})
        await connection.execute(text("UPDATE jobs SET finished_at = now() - interval '2 days', watched = true"))
        await connection.execute(text("ANALYZE jobs"))
    with noted(record) as asked:
        await prune_jobs(record, now() - timedelta(days=1))
        await forget_jobs(record)

    found = await plans(record, asked, seqscan="on")
    assert len(found) > 1
    assert not [plan for plan in found if "hashed SubPlan" in plan]


async def test_rare_job_is_found_when_pages_look_through_a_part_each(record: Record) -> None:
    """A page may be empty and have a next one; following them leads to every job that is meant."""
    async with record.engine.begin() as connection:
        await connection.execute(FILL, {"jobs": 100})

    pages: list[list[str]] = []
    before = None
    while not pages or before is not None:
        found, before = await page_of_jobs(record, JobFilter(task="rare"), limit=10, before=before, window=40)
        pages.append([job.task for job in found])

    assert pages == [[], [], ["rare"]]
