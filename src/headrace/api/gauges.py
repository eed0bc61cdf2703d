"""The gauges of `/metrics`, read from the record at the moment of a scrape.

Owns the queries behind them. Their cost follows what is unfinished or failed and never what has succeeded, because a
scrape comes every few seconds: partial indexes and small tables. While PostgreSQL is away the gauges keep their last
values, and the counters of this process are still served.
"""

from __future__ import annotations

import asyncio
from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.clock import now, time_of
from headrace.database.away import DRIVER_ERRORS
from headrace.database.mends import mends_by_reason
from headrace.database.record import Record
from headrace.events.holders import held_by_subscription
from headrace.jobs.blocked import blocks_by_task
from headrace.jobs.standing import job_counts, oldest_pending
from headrace.telemetry.metrics import Metrics, replace

_PATIENCE_SECONDS: Final = 5.0

_OUTBOX: Final = text(
    "SELECT count(*) AS events, (SELECT event_id FROM outbox ORDER BY seq LIMIT 1) AS oldest FROM outbox"
)

_LAG: Final = text("""
    SELECT s.name, sum(greatest(l.head - coalesce(c.position, 0), 0))::float8 AS lag
    FROM subscriptions s CROSS JOIN lanes l
    LEFT JOIN checkpoints c ON c.subscription = s.name AND c.lane = l.lane
    WHERE s.kind <> 'webhook'
    GROUP BY s.name
""")

# A webhook's name is an id: all of them are counted as one.
_HELD_KEYS: Final = text("""
    SELECT k.subscription,
           CASE WHEN j.id IS NULL THEN 'catching_up' WHEN j.state = 'dead' THEN 'dead' ELSE 'retrying' END AS state,
           count(*)::float8 AS keys
    FROM held_keys AS k LEFT JOIN jobs AS j ON j.id = k.job_id AND j.state NOT IN ('succeeded', 'cancelled', 'expired')
    GROUP BY 1, 2
""")

_WAITING: Final = text("SELECT subscription, count(*)::float8 FROM waiting_events GROUP BY subscription")

_DEAD: Final = text("""
    SELECT CASE WHEN subscription LIKE 'webhook:%' THEN 'webhooks' ELSE subscription END AS listener,
           count(*)::float8 AS dead
    FROM dead_deliveries GROUP BY 1
""")

_WEBHOOKS: Final = text("""
    SELECT CASE WHEN NOT enabled THEN 'disabled' WHEN circuit_until IS NOT NULL THEN 'failing' ELSE 'enabled' END,
           count(*)::float8
    FROM webhooks GROUP BY 1
""")

_PARKED: Final = text("SELECT queue, count(*)::float8 FROM jobs WHERE state = 'pending' AND parked GROUP BY queue")

_LIMITS: Final = text("SELECT name, concurrency::float8 FROM queues WHERE concurrency IS NOT NULL")

_PROCESSES: Final = text("SELECT role, count(*)::float8 AS alive FROM processes WHERE expires_at > now() GROUP BY role")


async def fill_gauges(metrics: Metrics, record: Record) -> None:
    """Bring the gauges to what the record says now."""
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS), record.engine.connect() as connection:
            await _fill(metrics, connection)
    except (SQLAlchemyError, *DRIVER_ERRORS):
        return


async def _fill(metrics: Metrics, connection: AsyncConnection) -> None:
    counts = await job_counts(connection)
    replace(metrics.jobs, {(queue, state): n for queue, states in counts.items() for state, n in states.items()})
    replace(
        metrics.oldest_pending_seconds, {(queue,): age for queue, age in (await oldest_pending(connection)).items()}
    )
    waiting = (await connection.execute(_OUTBOX)).one()
    metrics.outbox.set(waiting.events)
    age = (now() - time_of(waiting.oldest)).total_seconds() if waiting.oldest else 0.0
    metrics.outbox_age_seconds.set(max(0.0, age))
    blocks = await blocks_by_task(connection)
    replace(metrics.loop_blocks, {(task,): times for task, (times, _) in blocks.items()})
    replace(metrics.loop_blocked_seconds, {(task,): seconds for task, (_, seconds) in blocks.items()})
    mends = await mends_by_reason(connection)
    replace(metrics.belt_mends, {(reason,): times for reason, (times, _) in mends.items()})
    replace(metrics.belt_mended_entries, {(reason,): entries for reason, (_, entries) in mends.items()})
    held = await held_by_subscription(connection)
    replace(metrics.holds_trimming, {(name,): float(events) for name, events in held.items()})
    keys = (await connection.execute(_HELD_KEYS)).all()
    replace(metrics.held_keys, {(name, state): count for name, state, count in keys})
    labelled = (
        (metrics.parked, _PARKED),
        (metrics.concurrency_limit, _LIMITS),
        (metrics.subscription_lag, _LAG),
        (metrics.waiting_events, _WAITING),
        (metrics.dead_deliveries, _DEAD),
        (metrics.webhooks, _WEBHOOKS),
        (metrics.processes, _PROCESSES),
    )
    for gauge, query in labelled:
        replace(gauge, {(str(name),): float(value) for name, value in await connection.execute(query)})
