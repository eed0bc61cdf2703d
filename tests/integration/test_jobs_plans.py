"""What the record is asked for all day long never reads all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import event, text

from headrace.database.record import Record
from headrace.database.states import JobState
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


async def plans(record: Record) -> list[str]:
    """Return the plans of what a scrape and the listings ask, on a planner that avoids reading whole tables."""
    asked: list[tuple[str, tuple[object, ...]]] = []

    def note(_: Connection, __: object, statement: str, parameters: tuple[object, ...], *___: object) -> None:
        asked.append((statement, parameters))

    event.listen(record.engine.sync_engine, "before_cursor_execute", note)
    async with record.engine.connect() as connection:
        await queue_standings(connection, {})
    for chosen in (JobFilter(task="rare"), JobFilter(queue="mail"), *(JobFilter(state=state) for state in JobState)):
        await page_of_jobs(record, chosen, limit=50)
    event.remove(record.engine.sync_engine, "before_cursor_execute", note)
    async with record.engine.connect() as connection:
        await connection.execute(text("SET LOCAL enable_seqscan = off"))
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

    found = await plans(record)

    assert len(found) > 10
    assert not [plan for plan in found if "Seq Scan on jobs" in plan]


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
