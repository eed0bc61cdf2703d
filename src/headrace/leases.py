"""Leases: who owns what, for how long, in which epoch.

Owns the rows of `leases`. A lease has one holder until it expires by the record's own clock; each change of holder
raises its epoch, and whoever writes under a lease puts holder and epoch into the statement, so that a process which was
paused and wakes up late changes nothing. All leases of a process are renewed by one statement. Never compare the clocks
of two machines, and never trust a lease without naming its epoch in the write.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

_TAKE = text("""
    INSERT INTO leases AS held (name, holder, epoch, expires_at)
    SELECT name, :holder, 1, now() + make_interval(secs => :seconds)
    FROM unnest(CAST(:names AS text[])) AS wanted(name) ORDER BY name
    ON CONFLICT (name) DO UPDATE
        SET holder = excluded.holder, epoch = held.epoch + 1, expires_at = excluded.expires_at
        WHERE held.expires_at <= now() OR held.holder = excluded.holder
    RETURNING name, epoch
""")

_RENEW = text("""
    UPDATE leases SET expires_at = now() + make_interval(secs => :seconds)
    FROM unnest(CAST(:names AS text[]), CAST(:epochs AS bigint[])) AS mine(name, epoch)
    WHERE leases.name = mine.name AND leases.epoch = mine.epoch AND leases.holder = :holder
    RETURNING leases.name
""")

_RELEASE = text("""
    UPDATE leases SET holder = NULL, expires_at = '-infinity'
    FROM unnest(CAST(:names AS text[]), CAST(:epochs AS bigint[])) AS mine(name, epoch)
    WHERE leases.name = mine.name AND leases.epoch = mine.epoch AND leases.holder = :holder
""")


class Fence(msgspec.Struct, frozen=True):
    """What a statement names to be refused once somebody else owns the lease."""

    name: str
    holder: UUID
    epoch: int


class Leases:
    """The leases that one process holds or wants."""

    def __init__(self, engine: AsyncEngine, holder: UUID, *, seconds: float) -> None:
        """Hold for `holder`, new at each start of a process; a silent one keeps a lease for `seconds`."""
        self.holder = holder
        self._engine = engine
        self._seconds = seconds

    async def take(self, names: Collection[str]) -> dict[str, Fence]:
        """Take those of the named leases that are free or expired; return the fence of each one got."""
        if not names:
            return {}
        parameters = {"names": sorted(names), "holder": self.holder, "seconds": self._seconds}
        async with self._engine.begin() as connection:
            rows = (await connection.execute(_TAKE, parameters)).all()
        return {name: Fence(name, self.holder, epoch) for name, epoch in rows}

    async def renew(self, held: Mapping[str, Fence]) -> set[str]:
        """Prolong the held leases in one statement; return the names of those still held."""
        if not held:
            return set()
        async with self._engine.begin() as connection:
            rows = await connection.execute(_RENEW, self._parameters(held) | {"seconds": self._seconds})
        return set(rows.scalars())

    async def release(self, held: Mapping[str, Fence]) -> None:
        """Give leases back at once, so that others need not wait until they expire."""
        if not held:
            return
        async with self._engine.begin() as connection:
            await connection.execute(_RELEASE, self._parameters(held))

    def _parameters(self, held: Mapping[str, Fence]) -> dict[str, object]:
        fences = sorted(held.values(), key=lambda fence: fence.name)
        return {
            "names": [fence.name for fence in fences],
            "epochs": [fence.epoch for fence in fences],
            "holder": self.holder,
        }
