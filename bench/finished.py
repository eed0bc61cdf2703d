"""Millions of finished jobs on record: what they cost those that run.

Owns a second database of the same server, filled with finished jobs as weeks of work leave them: every column has its
value, ids rise with time, a few failed for good, the tables are analysed. The drain runs in turns here and in the
database that holds none. Then everything is asked what the processes ask all day long, and PostgreSQL tells how it
would answer (`plans`). Filling writes some gigabytes and takes a few minutes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from bench.backlog import Drained
from bench.drain import Load, drain_headrace
from bench.plans import Planned, plans_of
from bench.receiver import receiving
from bench.stage import Stage, connected, migrate

_PORTION = 250_000
_NAME = "finished"

# Jobs of the last four weeks, in the order of their making: an id is a UUIDv7 of its time.
_FILL = """
    WITH ended AS (INSERT INTO jobs (
        id, task, args, queue, state, priority, attempt, max_attempts, fence, created_at, run_at, released_at,
        started_at, finished_at, expires_at, progress, result, tags, unique_key, concurrency_key, parent_id, trace_id,
        traceparent, worker_id, moved_to, moved_at, retention_seconds, forget_at)
    SELECT id, 'diagnostics.echo', jsonb_build_object('value', n), 'default', CAST(state AS job_state), 5,
           CASE state WHEN 'succeeded' THEN 1 WHEN 'dead' THEN 10 ELSE 0 END, 10, 1, made, made, made + step,
           made + 2 * step, made + 3 * step, made + interval '1 day', '[1, 1, ""]', to_jsonb(n),
           ARRAY['customer-' || n % 5000], 'order-' || n, 'customer-' || n % 5000, id, hash,
           '00-' || hash || '-' || left(hash, 16) || '-00', CAST(md5((n % 50)::text) AS uuid),
           ARRAY['pending', 'queued', 'running', CAST(state AS job_state)]::job_state[],
           ARRAY[made, made + step, made + 2 * step, made + 3 * step],
           CASE n % 10 WHEN 0 THEN 5184000 END, CASE n % 10 WHEN 0 THEN made + interval '60 days' END
    FROM generate_series($1::bigint, $2::bigint) AS n
    CROSS JOIN LATERAL (SELECT now() - interval '28 days' * (1 - n::float8 / $3) - interval '1 hour' AS made,
                               interval '4 milliseconds' AS step, md5(n::text) AS hash) AS moment
    CROSS JOIN LATERAL (SELECT CAST(lpad(to_hex((extract(epoch FROM made) * 1000)::bigint), 12, '0') || '7'
                                    || left(hash, 3) || '8' || right(hash, 15) AS uuid) AS id,
                               CASE n % 200 WHEN 0 THEN 'dead' WHEN 1 THEN 'cancelled' WHEN 2 THEN 'expired'
                                            ELSE 'succeeded' END AS state) AS fate
    RETURNING trace_id, id)
    INSERT INTO job_traces (trace_id, job_id) SELECT CAST(trace_id AS uuid), id FROM ended
"""
# Work leaves full pages and empty ones. Rows that are inserted as finished would leave each page a third empty, and
# every new job would go to a page of its own, somewhere among the millions: on no table that grew by working is it so.
_FULL_PAGES = "ALTER TABLE jobs SET (fillfactor = 100)"
_SETTLED = (
    "ALTER TABLE jobs SET (fillfactor = 70)",
    "VACUUM (ANALYZE) jobs, job_traces",
    "CHECKPOINT",
)  # what autovacuum would do in the middle of a measurement


class Burdened(msgspec.Struct, frozen=True):
    """The drain with no finished rows and with so many, in turns, and the plans with them."""

    rows: int
    none: list[Drained]
    many: list[Drained]
    plans: list[Planned]


async def measure_finished(stage: Stage, *, rows: int, turns: int, jobs: int) -> Burdened:
    """Drain in turns without finished rows and with them."""
    async with _filled(stage, rows) as filled:
        with receiving() as receiver:
            none, many = [], []
            for _ in range(turns):
                none.append(await drain_headrace(stage, Load(jobs), receiver.environment))
                many.append(await drain_headrace(filled, Load(jobs, afresh=False), receiver.environment))
        return Burdened(rows, none, many, await plans_of(filled))


@asynccontextmanager
async def _filled(stage: Stage, rows: int) -> AsyncIterator[Stage]:
    """Lend a stage whose database holds finished jobs."""
    url = f"{stage.database_url.rpartition('/')[0]}/{_NAME}"
    filled = msgspec.structs.replace(stage, database_url=url)
    async with connected(stage) as connection:
        await connection.execute(f"CREATE DATABASE {_NAME}")
    await asyncio.to_thread(migrate, filled)
    async with connected(filled) as connection:
        await connection.execute(_FULL_PAGES)
        for first in range(1, rows + 1, _PORTION):
            await connection.execute(_FILL, first, min(first + _PORTION - 1, rows), rows)
        for statement in _SETTLED:
            await connection.execute(statement)
    yield filled
    async with connected(stage) as connection:
        await connection.execute(f"DROP DATABASE {_NAME} WITH (FORCE)")
