"""The schedules that code declares enter the record.

Owns their rows (origin `code`): new ones are added, changed ones updated, and those of a task that this code knows,
which it declares no more, are removed. When the expression or the zone of a schedule changes it is next due after now;
else its next due time stays, so that what was missed while no clock ran is seen. `enabled` is the operator's and never
touched. Every clock does this at its start, several at the same time if need be. Never touch a schedule made at run
time, unless code declares one of the same name.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec
import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.application import Registry
from headrace.cron.due import parse_cron
from headrace.database.record import Record
from headrace.errors import ConfigurationError, InvalidInputError
from headrace.jobs.schedule import Schedule

logger = structlog.get_logger(__name__)

_UPSERT: Final = text("""
    INSERT INTO schedules AS s (name, cron, timezone, task, args, misfire, overlap, origin, next_due_at)
    SELECT r.name, r.cron, r.timezone, r.task, r.args, r.misfire, r.overlap, 'code', r.next_due_at
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
             name text, cron text, timezone text, task text, args jsonb, misfire text, overlap text,
             next_due_at timestamptz)
    ORDER BY r.name
    ON CONFLICT (name) DO UPDATE SET
        cron = excluded.cron, timezone = excluded.timezone, task = excluded.task, args = excluded.args,
        misfire = excluded.misfire, overlap = excluded.overlap, origin = excluded.origin, updated_at = now(),
        next_due_at = CASE WHEN (s.cron, s.timezone) = (excluded.cron, excluded.timezone)
                           THEN coalesce(s.next_due_at, excluded.next_due_at) ELSE excluded.next_due_at END
    WHERE s.next_due_at IS NULL
       OR (s.cron, s.timezone, s.task, s.args, s.misfire, s.overlap, s.origin)
          IS DISTINCT FROM (excluded.cron, excluded.timezone, excluded.task, excluded.args, excluded.misfire,
                            excluded.overlap, excluded.origin)
    RETURNING s.name
""")

_REMOVE: Final = text("""
    DELETE FROM schedules
    WHERE origin = 'code' AND task = ANY (CAST(:tasks AS text[])) AND name <> ALL (CAST(:names AS text[]))
    RETURNING name
""")

_NOW: Final = text("SELECT now()")


async def register_schedules(record: Record, registry: Registry) -> None:
    """Make the record's code-defined schedules those of the registry.

    Raises:
        ConfigurationError: an expression or a time zone does not fit; the message names the schedule and the mend.

    """
    declared = registry.schedules
    async with record.engine.begin() as connection:
        now: datetime = (await connection.execute(_NOW)).scalar_one()
        rows = [_row(schedule, now) for schedule in declared.values()]
        changed = await _upsert(connection, rows)
        gone = {"tasks": sorted(registry.names), "names": sorted(declared)}
        removed = list((await connection.execute(_REMOVE, gone)).scalars())
    if changed or removed:
        logger.info("schedules_registered", changed=changed, removed=removed)


async def _upsert(connection: AsyncConnection, rows: list[dict[str, object]]) -> list[str]:
    if not rows:
        return []
    found = await connection.execute(_UPSERT, {"rows": msgspec.json.encode(rows).decode()})
    return list(found.scalars())


def _row(schedule: Schedule, now: datetime) -> dict[str, object]:
    try:
        next_due_at = parse_cron(schedule.cron, schedule.timezone).next_after(now)
    except InvalidInputError as error:
        message = f"the schedule {schedule.name} does not fit: {error}"
        raise ConfigurationError(message) from error
    return {
        "name": schedule.name,
        "cron": schedule.cron,
        "timezone": schedule.timezone,
        "task": schedule.call.task,
        "args": schedule.call.args,
        "misfire": schedule.misfire,
        "overlap": schedule.overlap,
        "next_due_at": next_due_at,
    }
