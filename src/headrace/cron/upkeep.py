"""Upkeep: the record is kept in order, a little at a time.

Owns the steps that the clock runs beside its ticks: jobs of dead workers run again (a second hand; the relay does it
too), partitions are made ahead of time, and what is older than the retention leaves. Each step may run in several
clocks at once, and may be cut off at any moment: what it did stays done, the rest is done next time. Never do work here
that an application waits for.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import structlog
from sqlalchemy import text

from headrace.clock import now
from headrace.database.partitions import ensure_partitions
from headrace.database.record import Record
from headrace.events.prune import prune_events
from headrace.jobs.prune import prune_jobs
from headrace.relay.rescue import rescue_once
from headrace.settings import Settings

logger = structlog.get_logger(__name__)

BATCH: Final = 1000

_PARTITIONS_LOCK: Final = 0x64617973  # "days": one process makes partitions at a time

_TRY_LOCK: Final = text("SELECT pg_try_advisory_xact_lock(:lock)")

_OLD_KEYS: Final = """
    DELETE FROM idempotency_keys WHERE ctid IN (
        SELECT ctid FROM idempotency_keys WHERE created_at < now() - interval '24 hours'
        LIMIT :batch FOR UPDATE SKIP LOCKED)
"""

# The last fire of each schedule stays: the overlap policy asks for its job.
_OLD_RUNS: Final = """
    DELETE FROM schedule_runs WHERE ctid IN (
        SELECT r.ctid FROM schedule_runs r
        WHERE r.due_at < now() - make_interval(days => :days)
          AND EXISTS (SELECT FROM schedule_runs l
                      WHERE l.schedule = r.schedule AND l.due_at > r.due_at AND l.job_id IS NOT NULL)
        LIMIT :batch FOR UPDATE OF r SKIP LOCKED)
"""

_DEAD_PROCESSES: Final = """
    DELETE FROM processes WHERE ctid IN (
        SELECT ctid FROM processes WHERE expires_at < now() - interval '1 day' LIMIT :batch FOR UPDATE SKIP LOCKED)
"""


async def rescue(record: Record, settings: Settings) -> None:
    """Let the jobs of dead workers run again."""
    await rescue_once(record, lease_seconds=settings.lease_seconds)


async def make_partitions(record: Record) -> None:
    """Make the partitions of the coming days, unless somebody else is at it."""
    async with record.engine.begin() as connection:
        if (await connection.execute(_TRY_LOCK, {"lock": _PARTITIONS_LOCK})).scalar_one():
            await ensure_partitions(connection)


async def prune(record: Record, settings: Settings) -> None:
    """Delete what is older than the retention: jobs, events, ledger rows, idempotency keys, dead processes."""
    before = now() - timedelta(days=settings.retention_days)
    jobs = await prune_jobs(record, before)
    partitions = await prune_events(record, before)
    runs = await _delete(record, _OLD_RUNS, days=settings.retention_days)
    keys = await _delete(record, _OLD_KEYS)
    processes = await _delete(record, _DEAD_PROCESSES)
    if any((jobs, partitions, runs, keys, processes)):
        logger.info("pruned", jobs=jobs, partitions=partitions, runs=runs, idempotency_keys=keys, processes=processes)


async def _delete(record: Record, statement: str, **parameters: int) -> int:
    """Delete in batches, each in a transaction of its own; return how many rows went."""
    deleted = 0
    while True:
        async with record.engine.begin() as connection:
            count = (await connection.execute(text(statement), {"batch": BATCH, **parameters})).rowcount
        deleted += count
        if count < BATCH:
            return deleted
