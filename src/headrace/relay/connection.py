"""The connections that a leader's parts keep to themselves.

Owns their making: past the pool, because a part holds one for as long as it leads, listens on it, and must never wait
for others to give one back. A connection that broke is not mended: the part that held it begins anew. It bears the
name of its process, and is ended with it: a leader that was stopped in a transaction holds locks that the next needs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from headrace.database.driver import ONE_BY_ONE
from headrace.database.sessions import session_name
from headrace.relay.leader import Leadership


@asynccontextmanager
async def connected(leadership: Leadership) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Lend a connection to the record for the block."""
    connection = await asyncpg.connect(
        leadership.record.database_url,
        timeout=5,
        command_timeout=30,
        server_settings=ONE_BY_ONE | {"application_name": session_name(leadership.fence.holder)},
    )
    try:
        yield connection
    finally:
        connection.terminate()
