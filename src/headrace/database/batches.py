"""Deleting much without being in anybody's way.

Owns the loop of a retention: rows leave in batches, each in a transaction of its own, and the statement passes over
those that somebody works on. It may be cut off at any moment: what is gone is gone, the rest goes next time. Never
delete an unbounded number of rows in one transaction.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

BATCH: Final = 1000


async def delete_in_batches(engine: AsyncEngine, table: str, where: str, parameters: dict[str, object]) -> int:
    """Delete the rows of `table`, called `r` in the condition `where`, and return how many went."""
    statement = text(f"""
        DELETE FROM {table} WHERE ctid IN (
            SELECT r.ctid FROM {table} r WHERE {where} LIMIT :batch FOR UPDATE OF r SKIP LOCKED)
    """)  # noqa: S608 - the table and the condition are our own; values are parameters
    deleted = 0
    while True:
        async with engine.begin() as connection:
            count = (await connection.execute(statement, {"batch": BATCH, **parameters})).rowcount
        deleted += count
        if count < BATCH:
            return deleted
