"""The number of lanes changes, and no key overtakes itself.

Owns the change, and `lane_stretches`, which keeps what it was before. A key's lane depends on the number of lanes, so
nothing may get a position by the new number while an event with one by the old is still to be handled: placing rests
until every subscription has passed every head, then all lanes are given back, because whoever has a lane knows what is
held on it; one transaction changes the rows of `lanes`, and everything goes on. While somebody is held up (paused,
failing, read by nobody) placing does not rest at all, and who is in the way is on record; it never rests for longer
than its patience either. The door accepts events throughout. Never change lanes without the fence, and never let a
lane's positions begin anew: they are known outside.
"""

from __future__ import annotations

import time
from typing import Final

import asyncpg
import msgspec
import structlog

from headrace.leases import Fence
from headrace.webhooks.model import FAN_OUT

logger = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 1.0
FIRST_PATIENCE_SECONDS: Final = 5.0
LAST_PATIENCE_SECONDS: Final = 60.0
HAND_OVER_SECONDS: Final = 3.0
"""How long consumers keep their hands off the lanes after the leader was last heard of."""

# One row per subscription and lane that has events before it. The fan-out of webhooks leaps where there is none.
_BEHIND: Final = f"""
    SELECT c.subscription, c.lane, l.head - c.position AS events,
           CASE WHEN s.paused THEN 'it is paused'
                WHEN c.last_error IS NOT NULL THEN 'it fails: ' || left(c.last_error, 200)
                WHEN o.name IS NULL AND (s.name <> '{FAN_OUT}' OR EXISTS (SELECT FROM webhooks WHERE enabled))
                THEN 'no consumer reads it' END AS stuck
    FROM checkpoints AS c
    JOIN lanes AS l ON l.lane = c.lane
    JOIN subscriptions AS s ON s.name = c.subscription
    LEFT JOIN leases AS o ON o.name = 'sub:' || c.subscription || ':' || c.lane AND o.expires_at > now()
    WHERE c.position < l.head ORDER BY c.subscription, c.lane
"""  # noqa: S608 - composed of constants

_ASK: Final = """
    INSERT INTO lane_resize (wanted, held_by) VALUES ($1, $2)
    ON CONFLICT ((true)) DO UPDATE SET held_by = excluded.held_by, wanted = excluded.wanted,
        since = CASE WHEN lane_resize.wanted = excluded.wanted THEN lane_resize.since ELSE now() END
"""

_HAND_OVER: Final = """
    UPDATE lane_resize SET hand_over_until = now() + make_interval(secs => $1), held_by = '[]'
    RETURNING (SELECT count(*) FROM leases WHERE name LIKE 'sub:%' AND expires_at > now())
"""
_GO_ON: Final = "UPDATE lane_resize SET hand_over_until = '-infinity', held_by = $1"

# Nobody registers a subscription, places an event or takes a lane meanwhile: each sees the lanes of before or of after.
_LOCK: Final = """
    SET LOCAL lock_timeout = '1s';
    LOCK TABLE subscriptions IN SHARE MODE;
    LOCK TABLE lanes IN EXCLUSIVE MODE;
    LOCK TABLE leases IN SHARE MODE;
"""
_MAY: Final = """
    SELECT EXISTS (SELECT FROM leases WHERE name = $1 AND holder = $2 AND epoch = $3)
       AND NOT EXISTS (SELECT FROM leases WHERE name LIKE 'sub:%' AND expires_at > now())
"""
_END: Final = "UPDATE lane_stretches AS s SET upto = l.head FROM lanes AS l WHERE l.lane = s.lane AND s.upto IS NULL"
_CLOSE: Final = "DELETE FROM lanes WHERE lane >= $1"
_OPEN: Final = """
    INSERT INTO lanes (lane, head)
    SELECT n, coalesce((SELECT max(upto) FROM lane_stretches WHERE lane = n), 0) FROM generate_series(0, $1 - 1) AS n
    ON CONFLICT DO NOTHING
"""
_BEGIN: Final = """
    INSERT INTO lane_stretches (generation, lane, after)
    SELECT (SELECT max(generation) + 1 FROM lane_stretches), lane, head FROM lanes
"""
_FOLLOW: Final = """
    INSERT INTO checkpoints (subscription, lane, position)
    SELECT c.subscription, l.lane, l.head
    FROM (SELECT DISTINCT subscription FROM checkpoints) AS c CROSS JOIN lanes AS l
    ON CONFLICT (subscription, lane) DO UPDATE SET position = excluded.position
        WHERE checkpoints.position < excluded.position
"""


class Held(msgspec.Struct, frozen=True):
    """A subscription that has yet to pass events of a lane; `stuck` says why it does not go on, None where it does."""

    subscription: str
    lane: int
    events: int
    stuck: str | None = None


class Resizing:
    """Brings the number of lanes to the wanted one; None leaves it as it is."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], fence: Fence, *, wanted: int | None) -> None:
        self._connection = connection
        self._fence = fence
        self._wanted = wanted
        self._done = False
        self._look_at = 0.0
        self._resting_until: float | None = None
        self._patience_seconds = FIRST_PATIENCE_SECONDS

    async def step(self) -> bool:
        """Do what there is to do; tell whether events may get positions now."""
        if self._done or (self._resting_until is None and time.monotonic() < self._look_at):
            return True
        if self._wanted is None or self._wanted == await self._connection.fetchval("SELECT count(*) FROM lanes"):
            await self._connection.execute("DELETE FROM lane_resize")
            self._done = True
            return True
        held = await behind(self._connection)
        if not held and await self._hand_over(self._wanted):
            return True
        if self._resting_until is None or time.monotonic() >= self._look_at:
            await self._connection.execute(_ASK, self._wanted, msgspec.json.encode(held).decode())
            self._look_at = time.monotonic() + LOOK_SECONDS
        if self._rests(held):
            return False
        await self._connection.execute(_GO_ON, msgspec.json.encode(held).decode())
        return True

    def _rests(self, held: list[Held]) -> bool:
        """Tell whether placing rests: as long as all come nearer, and for no longer than the patience."""
        if any(one.stuck for one in held):
            self._resting_until = None
        elif self._resting_until is None:
            self._resting_until = time.monotonic() + self._patience_seconds
        elif time.monotonic() >= self._resting_until:
            self._resting_until = None
            self._look_at = time.monotonic() + self._patience_seconds
            self._patience_seconds = min(self._patience_seconds * 2, LAST_PATIENCE_SECONDS)
            logger.warning("lanes_not_resized", wanted=self._wanted, waits_for=[one.subscription for one in held])
        return self._resting_until is not None

    async def _hand_over(self, wanted: int) -> bool:
        """Let all lanes be given back, and change their number when they are; tell whether that is done."""
        if self._resting_until is None:  # nothing gets a position from now on
            return False
        owned = await self._connection.fetchval(_HAND_OVER, HAND_OVER_SECONDS)
        return owned == 0 and await self._resize(wanted)

    async def _resize(self, wanted: int) -> bool:
        """Change the rows, if everybody has passed everything, nobody has a lane, and this process still leads."""
        fence = self._fence
        try:
            async with self._connection.transaction():
                await self._connection.execute(_LOCK)
                may = await self._connection.fetchval(_MAY, fence.name, fence.holder, fence.epoch)
                if not may or await behind(self._connection):
                    return False
                await self._connection.execute(_END)
                await self._connection.execute(_CLOSE, wanted)
                await self._connection.execute(_OPEN, wanted)
                await self._connection.execute(_BEGIN)
                await self._connection.execute(_FOLLOW)
                await self._connection.execute("DELETE FROM lane_resize")
        except asyncpg.LockNotAvailableError:
            return False
        self._done = True
        logger.info("lanes_resized", lanes=wanted)
        return True


async def behind(connection: asyncpg.Connection[asyncpg.Record]) -> list[Held]:
    """Return what subscriptions have yet to pass."""
    return [Held(*row) for row in await connection.fetch(_BEHIND)]
