"""Checkpoints: up to where a subscription has handled each lane, on record.

Owns the rows of `subscriptions` and `checkpoints`. A subscription seen for the first time begins at the heads its lanes
have at that moment; from then on only its own progress moves it, and whoever writes names its lease or the position
that it expects, so that a process which woke up late moves nothing. Never derive a checkpoint from Redis.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import asyncpg
import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from headrace.leases import Fence
from headrace.subscribers.contract import Subscription
from headrace.transaction import Transaction

_REGISTER = text("""
    INSERT INTO subscriptions (name, kind, types, filter) VALUES (:name, :kind, :types, CAST(:filter AS jsonb))
    ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, types = excluded.types, filter = excluded.filter
        WHERE (subscriptions.kind, subscriptions.types, subscriptions.filter)
            IS DISTINCT FROM (excluded.kind, excluded.types, excluded.filter)
""")

_BEGIN = text("""
    INSERT INTO checkpoints (subscription, lane, position) SELECT :name, lane, head FROM lanes ORDER BY lane
    ON CONFLICT DO NOTHING
""")

_LOAD = """
    SELECT checkpoints.position, lanes.head, checkpoints.reached
    FROM checkpoints JOIN lanes ON lanes.lane = checkpoints.lane
    WHERE checkpoints.subscription = $1 AND checkpoints.lane = $2
"""

_ADVANCE = """
    UPDATE checkpoints SET position = moved.position, updated_at = now()
    FROM unnest($2::smallint[], $3::bigint[], $4::text[], $5::bigint[]) AS moved(lane, position, lease, epoch)
    JOIN leases ON leases.name = moved.lease AND leases.epoch = moved.epoch AND leases.holder = $6
    JOIN lanes ON lanes.lane = moved.lane AND lanes.head >= moved.position
    WHERE checkpoints.subscription = $1 AND checkpoints.lane = moved.lane AND checkpoints.position < moved.position
"""

_REACH = """
    UPDATE checkpoints SET reached = greatest(checkpoints.reached, $3)
    FROM leases WHERE leases.name = $4 AND leases.epoch = $5 AND leases.holder = $6
        AND checkpoints.subscription = $1 AND checkpoints.lane = $2
    RETURNING reached
"""

_MOVE = text("""
    UPDATE checkpoints SET position = :position, last_error = NULL, failing_since = NULL, updated_at = now()
    WHERE subscription = :subscription AND lane = :lane AND position = :expected
""")

_FAILING = """
    UPDATE checkpoints SET last_error = $3, failing_since = coalesce(failing_since, now()), updated_at = now()
    WHERE subscription = $1 AND lane = $2
"""


class Standing(msgspec.Struct, frozen=True):
    """A subscription on a lane as the record has it: nothing after `reached` was ever taken up by anybody."""

    position: int
    head: int
    reached: int


class Move(msgspec.Struct, frozen=True):
    """A lane's new position, under the lease that allows it."""

    lane: int
    position: int
    fence: Fence


async def register(engine: AsyncEngine, subscriptions: Iterable[Subscription]) -> None:
    """Put subscriptions on record; a new one begins at the present, one that is there already is left where it is."""
    async with engine.begin() as connection:
        for subscription in sorted(subscriptions, key=lambda one: one.name):
            await _register(connection, subscription)


async def _register(connection: AsyncConnection, subscription: Subscription) -> None:
    row = {
        "name": subscription.name,
        "kind": subscription.kind.value,
        "types": list(subscription.patterns),
        "filter": None if subscription.filter is None else subscription.filter.written,
    }
    await connection.execute(_REGISTER, row)
    await connection.execute(_BEGIN, {"name": subscription.name})


async def load(connection: asyncpg.Connection[asyncpg.Record], subscription: str, lane: int) -> Standing:
    """Return how a subscription stands on a lane.

    Raises:
        LookupError: the subscription was taken off the record.

    """
    row = await connection.fetchrow(_LOAD, subscription, lane)
    if row is None:
        message = f"{subscription} has no checkpoint on lane {lane}"
        raise LookupError(message)
    return Standing(*row)


async def reach(
    connection: asyncpg.Connection[asyncpg.Record], subscription: str, lane: int, position: int, *, fence: Fence
) -> bool:
    """Note that what follows up to a position may be taken up from now on; False where the lease is another's."""
    return bool(await connection.fetchval(_REACH, subscription, lane, position, fence.name, fence.epoch, fence.holder))


async def heads_of(connection: asyncpg.Connection[asyncpg.Record]) -> dict[int, int]:
    """Return up to where each lane has events."""
    return dict(await connection.fetch("SELECT lane, head FROM lanes"))


async def advance(connection: asyncpg.Connection[asyncpg.Record], subscription: str, moves: Sequence[Move]) -> None:
    """Move the checkpoints of a subscription forward, those of lanes whose lease still holds."""
    await connection.execute(
        _ADVANCE,
        subscription,
        [move.lane for move in moves],
        [move.position for move in moves],
        [move.fence.name for move in moves],
        [move.fence.epoch for move in moves],
        moves[0].fence.holder,
    )


async def move_within(tx: Transaction, subscription: str, lane: int, *, expected: int, position: int) -> bool:
    """Move a checkpoint in the caller's transaction; False where it is not where it was expected."""
    row = {"subscription": subscription, "lane": lane, "expected": expected, "position": position}
    return (await tx.connection.execute(_MOVE, row)).rowcount == 1


async def mark_failing(
    connection: asyncpg.Connection[asyncpg.Record], subscription: str, lane: int, *, error: str
) -> None:
    """Show that a lane waits, why, and since when."""
    await connection.execute(_FAILING, subscription, lane, error.replace("\x00", "\N{SYMBOL FOR NULL}")[:2000])
