"""The queues there are.

Owns the rows of `queues`: a queue exists as soon as a task declares it or a job names it, and is never made by hand.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from headrace.database.tables import queues

_REGISTER = text("INSERT INTO queues (name) SELECT unnest(CAST(:names AS text[])) ON CONFLICT DO NOTHING")


async def register_queues(engine: AsyncEngine, names: Iterable[str]) -> None:
    """Make sure that these queues are on record."""
    async with engine.begin() as connection:
        await connection.execute(_REGISTER, {"names": sorted(set(names))})


async def queue_names(engine: AsyncEngine) -> list[str]:
    """Return the names of all queues, sorted."""
    async with engine.connect() as connection:
        return list((await connection.execute(select(queues.c.name).order_by(queues.c.name))).scalars())


class KnownQueues:
    """The queues that this process has seen on record, so that it asks once for each."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._seen: set[str] = set()

    async def ensure(self, names: Iterable[str]) -> None:
        """Make sure that these queues are on record."""
        missing = set(names) - self._seen
        if missing:
            await register_queues(self._engine, missing)
            self._seen |= missing
