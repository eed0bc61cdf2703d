"""Old deliveries leave the record with their jobs.

Owns the retention of the delivery log: what is older than the retention and has no job any more is deleted, in batches.
A delivery that can still be tried keeps its log, however old. Ids rise with time: the primary keys find the old ones.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import structlog

from headrace.clock import first_id_at
from headrace.database.batches import delete_in_batches
from headrace.database.record import Record

logger = structlog.get_logger(__name__)

_TABLES: Final = {"webhook_attempts": "delivery_id", "webhook_deliveries": "id"}


async def prune_webhooks(record: Record, before: datetime) -> None:
    """Delete what is left of deliveries that were made before this time and whose jobs are gone."""
    bound: dict[str, object] = {"bound": first_id_at(before)}
    for table, column in _TABLES.items():
        gone = f"r.{column} < :bound AND NOT EXISTS (SELECT FROM jobs WHERE jobs.id = r.{column})"
        if deleted := await delete_in_batches(record.engine, table, gone, bound):
            logger.info("pruned", table=table, rows=deleted)
