"""The connections that a leader's parts keep to themselves.

Owns their making: past the pool, because a part holds one for as long as it leads, listens on it, and must never wait
for others to give one back. A connection that broke is not mended: the part that held it begins anew. It bears the
name of its process, and is ended with it: a leader that was stopped in a transaction holds locks that the next needs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from headrace.database.sessions import session_name
from headrace.relay.leader import Leadership

PLANNER: Final = {"jit": "off", "enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}
"""Every statement of a part finds few rows, one by one, by an index. Left alone, PostgreSQL takes a LIMIT that comes
at run time for a tenth of what waits, and reads all jobs, finished ones too, to join them."""


@asynccontextmanager
async def connected(leadership: Leadership) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Lend a connection to the record for the block."""
    connection = await asyncpg.connect(
        leadership.record.database_url,
        timeout=5,
        command_timeout=30,
        server_settings=PLANNER | {"application_name": session_name(leadership.fence.holder)},
    )
    try:
        yield connection
    finally:
        connection.terminate()
