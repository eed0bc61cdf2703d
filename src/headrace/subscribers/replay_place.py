"""The place of a replay on record: what it goes through, and up to where it has.

Owns the rows of `replays` and `replay_lanes`. They are written with the job and survive it: a run that begins where
another one ended finds them, takes them over by its fence, and an older run, which was paused and wakes up late, moves
nothing any more. Never move a place over what is not on record as handled.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from headrace.errors import FencedError
from headrace.events.lane import Stretch
from headrace.jobs.retry import PermanentError

SPAN: Final = 20_000
"""Positions that one reading looks through at most, where few events are wanted."""

PAUSED_SECONDS: Final = 2.0
"""How long a replay to a paused subscription sleeps before it looks again."""

_BEGIN: Final = """
    INSERT INTO replays (job_id, subscription, shadow, total) VALUES ($1, $2, $3, $4)
"""
_BEGIN_LANES: Final = """
    INSERT INTO replay_lanes (job_id, generation, lane, begins_after, position, upto)
    SELECT $1, generation, lane, after, after, upto
    FROM unnest($2::integer[], $3::smallint[], $4::bigint[], $5::bigint[]) AS given(generation, lane, after, upto)
    ON CONFLICT DO NOTHING
"""
_TAKE: Final = """
    UPDATE replays SET fence = $2 WHERE job_id = $1 AND fence <= $2
    RETURNING job_id, subscription, total, done, fence, shadow, switched_at
"""
_LANES: Final = """
    SELECT generation, lane, position, upto FROM replay_lanes WHERE job_id = $1 ORDER BY generation, lane
"""
_EXISTS: Final = "SELECT EXISTS (SELECT FROM replays WHERE job_id = $1)"
_MOVE: Final = """
    WITH mine AS (UPDATE replays SET done = done + $5 WHERE job_id = $1 AND fence = $2 RETURNING job_id)
    UPDATE replay_lanes AS l SET position = $6 FROM mine
    WHERE l.job_id = mine.job_id AND l.generation = $3 AND l.lane = $4
    RETURNING l.lane
"""
_PAUSED: Final = "SELECT paused FROM subscriptions WHERE name = $1"


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay begins with; a rebuild has a `shadow`."""

    job_id: UUID
    subscription: str
    total: int
    stretches: Sequence[Stretch]
    shadow: str | None = None


class Place(msgspec.Struct, kw_only=True):
    """How far the run that holds `fence` is."""

    job_id: UUID
    subscription: str
    total: int
    done: int
    fence: int
    shadow: str | None = None
    switched_at: datetime | None = None
    """When a rebuild put its generation in the place of the one before."""
    left: list[Stretch] = []
    """What is left of each stretch of the log, in the order in which no key overtakes itself."""

    def next_stretches(self) -> list[Stretch]:
        """Return what is left of those that come next: of one generation, since a key may change its lane with it."""
        left = [one for one in self.left if one.after < one.upto]
        return [one for one in left if one.generation == left[0].generation]


async def begin_place(connection: asyncpg.Connection[asyncpg.Record], begun: Begun) -> None:
    """Put a replay on record, in the caller's transaction."""
    await connection.execute(_BEGIN, begun.job_id, begun.subscription, begun.shadow, begun.total)
    await add_stretches(connection, begun.job_id, begun.stretches)


async def add_stretches(
    connection: asyncpg.Connection[asyncpg.Record], job_id: UUID, stretches: Sequence[Stretch]
) -> None:
    """Add the stretches that a replay is to go through and does not know yet."""
    columns = zip(*((one.generation, one.lane, one.after, one.upto) for one in stretches), strict=True)
    await connection.execute(_BEGIN_LANES, job_id, *map(list, columns))


async def take_place(connection: asyncpg.Connection[asyncpg.Record], job_id: UUID, fence: int) -> Place:
    """Take over the place of a job's replay for the run with this fence.

    Raises:
        FencedError: a later run has it.
        PermanentError: there is none.

    """
    row = await connection.fetchrow(_TAKE, job_id, fence)
    if row is None:
        if await connection.fetchval(_EXISTS, job_id):
            message = f"a later run goes on with the replay {job_id}"
            raise FencedError(message)
        message = "this job has no place on record: ask for a replay by POST /v1/subscriptions/{name}/replay"
        raise PermanentError(message)
    return Place(**row, left=[Stretch(*one) for one in await connection.fetch(_LANES, job_id)])


async def move_place(
    connection: asyncpg.Connection[asyncpg.Record], place: Place, moved: Stretch, *, done: int
) -> None:
    """Move the place to what is left of a stretch, having dealt with so many events.

    Raises:
        FencedError: a later run has the place: nothing was moved.

    """
    row = (place.job_id, place.fence, moved.generation, moved.lane, done, moved.after)
    if await connection.fetchval(_MOVE, *row) is None:
        message = f"a later run goes on with the replay {place.job_id}"
        raise FencedError(message)


def moved_over(place: Place, moved: Stretch, *, done: int) -> None:
    """Note what `move_place` has committed."""
    place.done += done
    place.left = [moved if (one.generation, one.lane) == (moved.generation, moved.lane) else one for one in place.left]


async def is_paused(connection: asyncpg.Connection[asyncpg.Record], subscription: str) -> bool:
    """Tell whether a subscription rests.

    Raises:
        PermanentError: it was taken off the record.

    """
    paused: bool | None = await connection.fetchval(_PAUSED, subscription)
    if paused is None:
        message = f"there is no subscription {subscription} any more"
        raise PermanentError(message)
    return paused
