"""A key that is no longer valid keeps no tail open.

Owns the look at the keys of all open tails, by one statement every other second however many tails there are, and none
while there are none. With PostgreSQL away it looks again later: nobody is let go for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from headrace.api.auth import OPERATOR
from headrace.database.record import Record
from headrace.keys import valid_ids
from headrace.live.hub import Hub
from headrace.live.listener import End
from headrace.loops import Pace, Stop, repeat

_PACE: Final = Pace(2.0, last_backoff_seconds=5.0)


class KeyWatch:
    """Looks after the keys that opened the tails of a hub; `look_once` is repeated."""

    def __init__(self, record: Record, hub: Hub) -> None:
        self._record = record
        self._hub = hub

    async def look_once(self) -> None:
        """Let go whose key was revoked, or has expired."""
        owners = {listener.owner for listener in self._hub} - {OPERATOR.id}
        if not owners:
            return
        revoked = owners - await valid_ids(self._record, owners)
        for listener in self._hub:
            if listener.owner in revoked:
                listener.close(End.REVOKED)


@asynccontextmanager
async def open_key_watch(record: Record, hub: Hub) -> AsyncIterator[KeyWatch]:
    """Look for as long as the block runs."""
    watch, stop = KeyWatch(record, hub), Stop()
    looking = asyncio.create_task(repeat("live_keys", watch.look_once, _PACE, stop))
    try:
        yield watch
    finally:
        stop.set()
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
