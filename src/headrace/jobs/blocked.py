"""Which tasks have blocked an event loop, on record.

Owns the table `loop_blocks`, one row for each task: how often, for how long in all, and the latest case with the stack.
It is no history and never pruned; logs and traces have each case. Never write it from the loop that is blocked.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.database.record import Record

_ADD: Final = text("""
    INSERT INTO loop_blocks AS b (task, blocks, seconds, last_seconds, last_job_id, last_stack)
    VALUES (:task, 1, :seconds, :seconds, :job_id, :stack)
    ON CONFLICT (task) DO UPDATE SET blocks = b.blocks + 1, seconds = b.seconds + excluded.seconds, last_at = now(),
        last_seconds = excluded.last_seconds, last_job_id = excluded.last_job_id, last_stack = excluded.last_stack
""")

_ALL: Final = text("SELECT task, blocks::float8 AS blocks, seconds FROM loop_blocks")


class Block(msgspec.Struct, frozen=True):
    """A time for which an event loop stood still."""

    task: str
    """Whose run was on the loop; empty where that is not known."""
    job_id: UUID | None
    seconds: float
    stack: str
    """Of the thread of the loop."""


async def record_block(record: Record, block: Block) -> None:
    """Add a case to the task's row."""
    async with record.engine.begin() as connection:
        await connection.execute(_ADD, msgspec.structs.asdict(block))


async def blocks_by_task(connection: AsyncConnection) -> dict[str, tuple[float, float]]:
    """Return for each task that has blocked a loop how often, and for how many seconds in all."""
    return {row.task: (row.blocks, row.seconds) for row in await connection.execute(_ALL)}
