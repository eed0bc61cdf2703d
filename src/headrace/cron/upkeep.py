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
from headrace.database.batches import delete_in_batches
from headrace.database.partitions import ensure_partitions
from headrace.database.record import Record
from headrace.events.prune import prune_events
from headrace.jobs.prune import forget_jobs, prune_jobs
from headrace.relay.rescue import rescue_once
from headrace.settings import Settings
from headrace.subscribers.shadow import sweep_shadows
from headrace.webhooks.prune import prune_webhooks
from headrace.webhooks.renewal import renew_secrets
from headrace.webhooks.secrets import SecretBox

logger = structlog.get_logger(__name__)

_PARTITIONS_LOCK: Final = 0x64617973  # "days": one process makes partitions at a time

_TRY_LOCK: Final = text("SELECT pg_try_advisory_xact_lock(:lock)")

_OLD_KEY: Final = "r.created_at < now() - interval '24 hours'"
_ENDED_KEY: Final = "r.until < now()"
# As long as the job that did the work may be retried, a repeat must find the result.
_OLD_WORK: Final = """
    r.created_at < now() - make_interval(days => :days) AND NOT EXISTS (SELECT FROM jobs WHERE jobs.id = r.job_id)
"""
_OLD_REPLAY: Final = "NOT EXISTS (SELECT FROM jobs WHERE jobs.id = r.job_id)"
_DEAD_PROCESS: Final = "r.expires_at < now() - interval '1 day'"
# Set aside for jobs that move for ever; those of a job that ends leave with it.
_OLD_MOVE: Final = "r.at < now() - make_interval(days => :days)"

# The last fire of each schedule stays: the overlap policy asks for its job.
_OLD_RUN: Final = """
    r.due_at < now() - make_interval(days => :days)
    AND EXISTS (SELECT FROM schedule_runs l
                WHERE l.schedule = r.schedule AND l.due_at > r.due_at AND l.job_id IS NOT NULL)
"""


async def rescue(record: Record, settings: Settings) -> None:
    """Let the jobs of dead workers run again."""
    await rescue_once(record, lease_seconds=settings.lease_seconds)


async def make_partitions(record: Record) -> None:
    """Make the partitions of the coming days, unless somebody else is at it."""
    async with record.engine.begin() as connection:
        if (await connection.execute(_TRY_LOCK, {"lock": _PARTITIONS_LOCK})).scalar_one():
            await ensure_partitions(connection)


async def forget(record: Record) -> None:
    """Delete jobs whose own retention is over, keys whose time is, and generations of tables that nobody works on."""
    jobs = await forget_jobs(record)
    if shadows := await sweep_shadows(record):
        logger.info("shadows_swept", schemas=shadows)
    keys = await delete_in_batches(record.engine, "unique_keys", _ENDED_KEY, {})
    if jobs or keys:
        logger.info("forgotten", jobs=jobs, unique_keys=keys)


async def prune(record: Record, settings: Settings) -> None:
    """Delete what is older than the retention: jobs, moves, work done, events, ledger rows, keys, dead processes."""
    before = now() - timedelta(days=settings.retention_days)
    jobs = await prune_jobs(record, before)
    partitions = await prune_events(record, before)
    runs = await delete_in_batches(record.engine, "schedule_runs", _OLD_RUN, {"days": settings.retention_days})
    work = await delete_in_batches(record.engine, "processed_work", _OLD_WORK, {"days": settings.retention_days})
    moves = await delete_in_batches(record.engine, "job_moves", _OLD_MOVE, {"days": settings.retention_days})
    keys = await delete_in_batches(record.engine, "idempotency_keys", _OLD_KEY, {})
    await prune_webhooks(record, before)
    await renew_secrets(record, SecretBox.of(settings))
    replays = await delete_in_batches(record.engine, "replays", _OLD_REPLAY, {})
    redrives = await delete_in_batches(record.engine, "redrives", _OLD_REPLAY, {})
    processes = await delete_in_batches(record.engine, "processes", _DEAD_PROCESS, {})
    small = {
        "runs": runs, "processed_work": work, "job_moves": moves, "idempotency_keys": keys, "replays": replays,
        "redrives": redrives, "processes": processes,
    }  # fmt: skip
    if jobs or partitions or any(small.values()):
        logger.info("pruned", jobs=jobs, partitions=partitions, **small)
