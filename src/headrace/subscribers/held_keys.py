"""Held keys on record: those whose events do not go the straight way, and the events that wait.

Owns the statements over `held_keys` and `waiting_events`. A key is held because one of its events failed under a
subscription that keeps order, and those behind it wait for its job; or because it has more events than memory takes.
Whoever owns the key's lane is the only one that writes here, and names its lease in each statement. A key is blocked as
long as its job is not succeeded, cancelled or expired: the job itself says so, whoever has changed it and however.
Waiting events are in the order of their generation and position, so that parking one late, or again, changes nothing.
Never let a key go while an event of it waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
from sqlalchemy import text

from headrace.errors import FencedError
from headrace.events.lane import COLUMNS
from headrace.events.model import RecordedEvent, slot_of
from headrace.leases import Fence
from headrace.transaction import Transaction

# The lease is locked, so that nobody takes it over between this look and the commit.
_LED: Final = "SELECT FROM leases WHERE name = $2 AND holder = $3 AND epoch = $4 FOR SHARE"

_PARK: Final = f"""
    WITH led AS MATERIALIZED ({_LED}),
    given AS (
        SELECT * FROM unnest($5::text[], $6::smallint[], $7::uuid[], $8::bigint[]) AS g(key, slot, event_id, position)),
    held AS (
        INSERT INTO held_keys (subscription, key, slot)
        SELECT DISTINCT ON (key) $1, key, slot FROM given CROSS JOIN led ON CONFLICT DO NOTHING),
    parked AS (
        INSERT INTO waiting_events (subscription, key, generation, position, event_id, lane)
        SELECT $1, key, (SELECT max(generation) FROM lane_stretches WHERE lane = $9 AND after < given.position),
               position, event_id, $9
        FROM given CROSS JOIN led ON CONFLICT DO NOTHING)
    SELECT count(*) FROM led
"""  # noqa: S608 - composed of constants

_HOLD: Final = text("""
    WITH led AS MATERIALIZED (
        SELECT FROM leases WHERE name = CAST(:lease AS text) AND holder = CAST(:holder AS uuid)
        AND epoch = CAST(:epoch AS bigint) FOR SHARE)
    INSERT INTO held_keys (subscription, key, slot, event_id, job_id)
    SELECT :subscription, :key, :slot, d.event_id, d.job_id FROM deliveries AS d
    WHERE d.subscription = :subscription AND d.event_id = :event_id
      AND (CAST(:lease AS text) IS NULL OR EXISTS (SELECT FROM led))
    ON CONFLICT (subscription, key)
        DO UPDATE SET event_id = excluded.event_id, job_id = excluded.job_id, since = now()
    RETURNING job_id
""")

IS_OPEN: Final = """
    NOT EXISTS (SELECT FROM jobs AS j WHERE j.id = k.job_id AND j.state NOT IN ('succeeded', 'cancelled', 'expired'))
"""

_LOAD: Final = f"""
    SELECT k.key, CASE WHEN NOT {IS_OPEN} THEN k.job_id END FROM held_keys AS k
    WHERE k.subscription = $1 AND k.slot % (SELECT count(*) FROM lanes) = $2
"""  # noqa: S608 - composed of constants

_OPENED: Final = f"""
    SELECT k.key, k.job_id FROM held_keys AS k
    WHERE k.subscription = $1 AND k.job_id IS NOT NULL
      AND k.slot % (SELECT count(*) FROM lanes) = ANY($2::bigint[]) AND {IS_OPEN}
"""  # noqa: S608 - composed of constants

# Of the key's own lane no further than what was taken up: what lies beyond may have to wait in front of it.
_NEXT: Final = f"""
    SELECT {COLUMNS},
           EXISTS (SELECT FROM inbox AS i WHERE i.subscription = $1 AND i.event_id = placed.event_id)
           OR EXISTS (SELECT FROM deliveries AS d WHERE d.subscription = $1 AND d.event_id = placed.event_id),
           placed.event_id
    FROM (SELECT lane, position, generation, event_id FROM waiting_events
          WHERE subscription = $1 AND key = $2 AND (lane <> $3 OR position <= $4)
          ORDER BY generation, position LIMIT $5) AS placed
    LEFT JOIN event_log AS e ON e.id = placed.event_id
    ORDER BY placed.generation, placed.position
"""  # noqa: S608 - composed of constants

_DONE: Final = "DELETE FROM waiting_events WHERE event_id = ANY($2::uuid[]) AND subscription = $1"

_RELEASE: Final = f"""
    WITH led AS MATERIALIZED ({_LED})
    DELETE FROM held_keys AS k USING led
    WHERE k.subscription = $1 AND k.key = $5 AND {IS_OPEN}
      AND NOT EXISTS (SELECT FROM waiting_events AS w WHERE w.subscription = k.subscription AND w.key = k.key)
    RETURNING true
"""  # noqa: S608 - composed of constants


class Waiting(msgspec.Struct, frozen=True):
    """An event that waits; `event` is None where nothing is left to do: it was handled, or has left the record."""

    event_id: UUID
    event: RecordedEvent | None


async def park(
    connection: asyncpg.Connection[asyncpg.Record], subscription: str, fence: Fence, events: Sequence[RecordedEvent]
) -> None:
    """Let events of one lane wait behind their keys.

    Raises:
        FencedError: the lane is somebody else's by now.

    """
    leads = await connection.fetchval(
        _PARK,
        subscription,
        *(fence.name, fence.holder, fence.epoch),
        [event.key for event in events],
        [slot_of(event.key) for event in events],
        [event.id for event in events],
        [event.position for event in events],
        events[0].lane,
    )
    if not leads:
        message = f"the lease {fence.name} is somebody else's"
        raise FencedError(message)


async def hold(tx: Transaction, subscription: str, event: RecordedEvent, *, fence: Fence | None) -> UUID:
    """Hold the key of an event whose delivery has a job until this job lets go; return the job.

    Raises:
        FencedError: the lane is somebody else's by now.

    """
    row = {
        "subscription": subscription,
        "key": event.key,
        "slot": slot_of(event.key),
        "event_id": event.id,
        "lease": fence.name if fence else None,
        "holder": fence.holder if fence else None,
        "epoch": fence.epoch if fence else None,
    }
    job_id: UUID | None = (await tx.connection.execute(_HOLD, row)).scalar_one_or_none()
    if job_id is None:
        message = f"the lane of {event.key} is somebody else's"
        raise FencedError(message)
    return job_id


async def load(
    connection: asyncpg.Connection[asyncpg.Record], subscription: str, lane: int
) -> list[tuple[str, UUID | None]]:
    """Return the held keys of a lane, each with the job that blocks it, if one does."""
    return [(key, job_id) for key, job_id in await connection.fetch(_LOAD, subscription, lane)]


async def opened(
    connection: asyncpg.Connection[asyncpg.Record], subscription: str, lanes: Sequence[int]
) -> list[tuple[str, UUID]]:
    """Return the keys of these lanes whose job does not block them any more, with that job."""
    return [(key, job_id) for key, job_id in await connection.fetch(_OPENED, subscription, lanes)]


async def next_waiting(
    connection: asyncpg.Connection[asyncpg.Record], subscription: str, key: str, *, taken: tuple[int, int], limit: int
) -> list[Waiting]:
    """Return the first events that wait behind a key; `taken` is its lane, and up to where that was taken up."""
    rows = await connection.fetch(_NEXT, subscription, key, *taken, limit)
    return [Waiting(row[-1], None if row[-2] or row[0] is None else RecordedEvent(*tuple(row)[:-2])) for row in rows]


async def no_longer_waiting(
    connection: asyncpg.Connection[asyncpg.Record], subscription: str, events: Sequence[UUID]
) -> None:
    """Forget events that were handled, or have a job."""
    await connection.execute(_DONE, subscription, events)


async def release(connection: asyncpg.Connection[asyncpg.Record], subscription: str, key: str, *, fence: Fence) -> bool:
    """Let a key go, if nothing waits behind it and nothing blocks it; tell whether it is free."""
    found = await connection.fetchval(_RELEASE, subscription, fence.name, fence.holder, fence.epoch, key)
    return found is not None
