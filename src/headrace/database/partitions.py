"""Day partitions of the tables that are keyed by event id.

Owns the partitions of `event_log` and `inbox`: a UUIDv7 begins with its time, so a day is a range of ids. They are made
a week ahead by `headrace migrate`, the relay and the clock; should all of these be away, rows go to the default
partition and nothing fails. Never delete old events row by row: a partition is dropped whole.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.clock import first_id_at, now

PARTITIONED = ("event_log", "inbox")
DAYS_AHEAD = 7


async def ensure_partitions(connection: AsyncConnection) -> None:
    """Make the partitions of today and the coming week where they are missing; safe to call at any time."""
    today = now().date()
    for table in PARTITIONED:
        present = await _partitions_of(connection, table)
        for offset in range(DAYS_AHEAD + 1):
            day = today + timedelta(days=offset)
            if _name(table, day) not in present:
                await _create(connection, table, day)


async def drop_partitions_before(connection: AsyncConnection, day: date) -> list[str]:
    """Drop the partitions of all days before `day`; return their names."""
    dropped = []
    for table in PARTITIONED:
        for name in sorted(await _partitions_of(connection, table)):
            if not name.endswith("_default") and name < _name(table, day):
                await connection.execute(text(f"DROP TABLE {name}"))
                dropped.append(name)
    return dropped


def _name(table: str, day: date) -> str:
    return f"{table}_{day:%Y%m%d}"


async def _partitions_of(connection: AsyncConnection, table: str) -> set[str]:
    rows = await connection.execute(
        text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = CAST(:parent AS regclass)"),
        {"parent": table},
    )
    return set(rows.scalars())


async def _create(connection: AsyncConnection, table: str, day: date) -> None:
    """Create one day's partition, moving in what the default partition caught while it was missing."""
    name, start = _name(table, day), datetime.combine(day, time(), UTC)
    low, high = first_id_at(start), first_id_at(start + timedelta(days=1))
    await connection.execute(text(f"LOCK TABLE {table}_default IN ACCESS EXCLUSIVE MODE"))
    await connection.execute(text(f"CREATE TABLE IF NOT EXISTS {name} (LIKE {table} INCLUDING DEFAULTS)"))
    column = "id" if table == "event_log" else "event_id"
    bounds = {"low": low, "high": high}
    caught = f"DELETE FROM {table}_default WHERE {column} >= :low AND {column} < :high RETURNING *"  # noqa: S608 - our own names
    move = f"WITH moved AS ({caught}) INSERT INTO {name} SELECT * FROM moved"  # noqa: S608 - our own names
    await connection.execute(text(move), bounds)
    await connection.execute(
        text(f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{low}') TO ('{high}')")
    )
