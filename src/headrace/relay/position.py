"""Positions: the one statement that moves events from the outbox to their lanes.

Owns it. It takes the oldest pointers of all lanes by their presence, not by a cursor (a transaction that commits late
would be passed by), deletes them, and gives each a dense position in `lane_log`. It names the relay's lease, and
changes nothing once the lease is another's; and because it waits for locked rows instead of skipping them, two relays
that overlap for a moment take one after the other, in order. Publishers know slots; which lane a slot belongs to is
decided here, by the number of lanes at that moment. Never SKIP LOCKED here: measured, it inverts the order of a key.
"""

from __future__ import annotations

import asyncpg

from headrace.events.lane import COLUMNS, placed_event
from headrace.events.model import RecordedEvent
from headrace.leases import Fence

BATCH = 500

# The plan (500 of 60,000 pointers): index scan of outbox_pkey for the 500 and for their deletion, and one index lookup
# per event in the partition of its id. Hash joins are off on the relay's connection, or a log without statistics is
# scanned whole.
_PLACE = f"""
    WITH taken AS (
        DELETE FROM outbox WHERE seq = ANY (ARRAY(
            SELECT seq FROM outbox
            WHERE EXISTS (SELECT FROM leases WHERE name = $1 AND holder = $2 AND epoch = $3 AND expires_at > now())
            ORDER BY seq LIMIT $4 FOR UPDATE))
        RETURNING seq, slot, event_id),
    given AS (SELECT seq, slot % (SELECT count(*) FROM lanes) AS lane, event_id FROM taken),
    counted AS (SELECT lane, count(*) AS number FROM given GROUP BY lane),
    advanced AS (
        UPDATE lanes SET head = head + counted.number FROM counted WHERE lanes.lane = counted.lane
        RETURNING lanes.lane, lanes.head - counted.number AS base),
    placed AS (
        INSERT INTO lane_log (lane, position, event_id)
        SELECT given.lane, advanced.base + row_number() OVER (PARTITION BY given.lane ORDER BY given.seq),
               given.event_id
        FROM given JOIN advanced ON advanced.lane = given.lane
        RETURNING lane, position, event_id)
    SELECT {COLUMNS}
    FROM placed LEFT JOIN event_log AS e ON e.id = placed.event_id
    ORDER BY placed.lane, placed.position
"""  # noqa: S608 - the columns are ours

Placed = dict[int, list[tuple[int, RecordedEvent | None]]]
"""The events of each lane that got a position, in its order."""


async def place(connection: asyncpg.Connection[asyncpg.Record], fence: Fence, *, limit: int = BATCH) -> Placed:
    """Give positions to the oldest events of the outbox, at most `limit`, and commit; return them by lane."""
    placed: Placed = {}
    for row in await connection.fetch(_PLACE, fence.name, fence.holder, fence.epoch, limit):
        placed.setdefault(row[6], []).append(placed_event(row))
    return placed


async def heads(connection: asyncpg.Connection[asyncpg.Record]) -> dict[int, int]:
    """Return the last position of each lane."""
    return dict(await connection.fetch("SELECT lane, head FROM lanes ORDER BY lane"))


async def acknowledged(connection: asyncpg.Connection[asyncpg.Record]) -> dict[int, tuple[int, str | None]]:
    """Return up to which position every subscription has acknowledged each lane, and which one holds it there."""
    rows = await connection.fetch("""
        SELECT lanes.lane, coalesce(slowest.position, lanes.head), slowest.subscription
        FROM lanes LEFT JOIN LATERAL (
            SELECT position, subscription FROM checkpoints
            WHERE checkpoints.lane = lanes.lane ORDER BY position LIMIT 1) AS slowest ON true
    """)
    return {lane: (position, subscription) for lane, position, subscription in rows}
