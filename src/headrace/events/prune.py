"""Old events leave the record, a day at a time, once nobody needs them.

Owns the retention of the log: the partitions of whole days are dropped, and what refers to their events (positions,
keys, deliveries) is deleted in batches, skipping rows that anybody works on. An event that a subscription has not
handled, whose delivery can still be retried, or that has no position yet, keeps its day and all later ones: retention
never breaks the promise, and the log says what holds it back. Dropping takes a lock on the log, so it waits half a
second for it at most and leaves the day to the next time. Never delete events of a day's partition row by row.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Final

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from headrace.clock import first_id_at, time_of
from headrace.database.batches import delete_in_batches
from headrace.database.partitions import drop_partitions_before
from headrace.database.record import Record

logger = structlog.get_logger(__name__)

# Plan: per lane one row of lane_log_pkey, however long the log is; the outbox and the deliveries are short.
_NEEDED: Final = text("""
    SELECT needed.event_id, needed.by FROM (
        (SELECT l.event_id, 'a subscription that is behind' AS by
         FROM (SELECT lane, min(position) AS position FROM checkpoints GROUP BY lane) AS c
         CROSS JOIN LATERAL (SELECT event_id FROM lane_log
                             WHERE lane = c.lane AND position > c.position ORDER BY position LIMIT 1) AS l)
        UNION ALL (SELECT event_id, 'the outbox' FROM outbox ORDER BY seq LIMIT 1)
        UNION ALL (SELECT event_id, 'an event that waits behind its key' FROM waiting_events ORDER BY event_id LIMIT 1)
        UNION ALL (SELECT d.event_id, 'a delivery that can be retried' FROM deliveries d JOIN jobs j ON j.id = d.job_id
                   WHERE j.state <> 'succeeded' ORDER BY d.event_id LIMIT 1)
        UNION ALL (SELECT l.event_id, 'a replay under way'
                   FROM replays r JOIN jobs j ON j.id = r.job_id AND j.finished_at IS NULL
                   JOIN replay_lanes p ON p.job_id = r.job_id AND p.position < p.upto
                   CROSS JOIN LATERAL (SELECT event_id FROM lane_log WHERE lane = p.lane AND position > p.position
                                       ORDER BY position LIMIT 1) AS l)) AS needed
    ORDER BY needed.event_id LIMIT 1
""")

_SLACK: Final = timedelta(days=1)
"""An id is as old as the transaction that published it, so a later position may have an older one."""

_PATIENCE: Final = text("SET LOCAL lock_timeout = '500ms'")
_LOCK_NOT_AVAILABLE: Final = "55P03"

_REFERENCES: Final = {
    "lane_log": "event_id",
    "deliveries": "event_id",
    "event_keys": "event_id",
    "inbox_default": "event_id",
    "event_log_default": "id",
}
"""Every table whose rows go with their events, and the column that names the event."""


async def prune_events(record: Record, before: datetime) -> int:
    """Drop the events of the days before this time's day that nobody needs; return how many partitions were dropped."""
    day = await _first_day_to_keep(record, before)
    try:
        async with record.engine.begin() as connection:
            await connection.execute(_PATIENCE)
            dropped = await drop_partitions_before(connection, day)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        logger.warning("partitions_not_dropped", before=str(day), reason="the log is in use: its readers come first")
        return 0
    if dropped:
        logger.info("partitions_dropped", partitions=dropped)
    bound = first_id_at(datetime.combine(day, time(), UTC))
    for table, column in _REFERENCES.items():
        await delete_in_batches(record.engine, table, f"r.{column} < :bound", {"bound": bound})
    return len(dropped)


async def _first_day_to_keep(record: Record, before: datetime) -> date:
    day = before.astimezone(UTC).date()
    async with record.engine.connect() as connection:
        needed = (await connection.execute(_NEEDED)).one_or_none()
    if needed is None or (oldest := (time_of(needed.event_id) - _SLACK).date()) >= day:
        return day
    logger.warning("retention_held_back", by=needed.by, event_id=str(needed.event_id), kept_from=str(oldest))
    return oldest
