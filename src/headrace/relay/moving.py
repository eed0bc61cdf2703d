"""Moving events: the loop of the leader that keeps lanes and belt in step.

Owns a connection to the record that nobody else uses: it carries the positions and listens for the bell. After a bell
the loop works at once; without one it looks again after 5 ms, then ever less often, up to four times a second, because
a bell may be lost. A fault of either store ends the connection; the loop begins anew with another one and finds what
was left. Never wait for a bell alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg

from headrace.database.record import Bell
from headrace.live.announcing import Announcer
from headrace.loops import Pace, repeat
from headrace.relay.lanes import Lanes
from headrace.relay.leader import Leadership
from headrace.relay.resizing import Resizing
from headrace.relay.trim import Trimmer
from headrace.streams.append import RedisWriter
from headrace.streams.transport import LaneWriter

FIRST_PAUSE_SECONDS = 0.005
LAST_PAUSE_SECONDS = 0.25
RESTING_PAUSE_SECONDS = 0.02
"""Between two looks whether the number of lanes can change: events wait for it."""
_PLANNER = {"enable_hashjoin": "off", "enable_mergejoin": "off", "jit": "off"}
_PACE = Pace(0.0, first_backoff_seconds=0.05, last_backoff_seconds=1.0)


async def move_events(leadership: Leadership) -> None:
    """Move events until the leadership ends."""
    await repeat("move_events", lambda: move_with(leadership, RedisWriter(leadership.redis)), _PACE, leadership.stop)


async def move_with(leadership: Leadership, writer: LaneWriter) -> None:
    """Move events by way of `writer` until the leadership ends, or a store fails."""
    async with open_mover(leadership.record.database_url) as (connection, rung):
        lanes = Lanes(connection, writer, leadership.fence, capacity=leadership.settings.lane_capacity)
        resizing = Resizing(connection, leadership.fence, wanted=leadership.settings.lanes)
        trimmer = Trimmer(connection, writer)
        announcer = Announcer(leadership.redis)
        pause = FIRST_PAUSE_SECONDS
        while not leadership.stop.is_set():
            rung.clear()
            placing = await resizing.step()
            moved = await lanes.step(placing=placing)
            if not lanes.away:  # each would wait for its time-out, and no event would get a position meanwhile
                await announcer.announce(lanes.placed)
                await trimmer.step()
            longest = LAST_PAUSE_SECONDS if placing else RESTING_PAUSE_SECONDS
            pause = FIRST_PAUSE_SECONDS if moved else min(pause * 2, longest)
            if not moved:
                await _wait(rung, pause)


@asynccontextmanager
async def open_mover(database_url: str) -> AsyncIterator[tuple[asyncpg.Connection[asyncpg.Record], asyncio.Event]]:
    """Open the relay's own connection and the event that its bell sets."""
    # Without the two joins events are looked up by id, whatever the planner believes of a log without statistics.
    connection = await asyncpg.connect(
        database_url,
        timeout=5,
        command_timeout=30,
        server_settings=_PLANNER | {"application_name": "headrace relay"},
    )
    rung = asyncio.Event()
    try:
        await connection.add_listener(Bell.EVENTS.value, lambda *_: rung.set())
        yield connection, rung
    finally:
        connection.terminate()


async def _wait(rung: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await rung.wait()
