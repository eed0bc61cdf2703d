"""A worker and the record agree about what the worker runs.

Owns the comparison, made when the bell of a cancellation rings, and every three quarters of a second in any case,
because a bell may be lost. What the record wants cancelled is cancelled; what it has given to others (the worker was
paused, or cut off from PostgreSQL for longer than its lease) is stopped, because its outcome would be refused anyway;
what it says is running here, and is not (the answer to a claim was lost with a connection), is given up as lost and
runs again. Never decide by the worker's memory alone: the record may have moved on.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import asyncpg
import structlog

from headrace.database.record import Bell
from headrace.jobs.claim import claimed_by
from headrace.loops import Pace
from headrace.presence import Identity
from headrace.tasks.attempt import Interruption
from headrace.tasks.belt import Belt
from headrace.tasks.execution import Execution
from headrace.tasks.outcome import lost
from headrace.tasks.settler import Settler

logger = structlog.get_logger(__name__)

RECONCILE_PACE: Final = Pace(interval_seconds=0.02, last_backoff_seconds=1.0)
"""How soon one look follows another: bells that ring together are answered together."""
_UNASKED_SECONDS: Final = 0.75
_PATIENCE_SECONDS: Final = 5.0


class Reconciliation:
    """Compares; `look` is repeated."""

    def __init__(self, database_url: str, identity: Identity, *, belt: Belt, settler: Settler) -> None:
        self._database_url = database_url
        self._identity = identity
        self._belt = belt
        self._settler = settler
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._rung = asyncio.Event()

    async def look(self, execution: Execution) -> None:
        """Wait for the bell, or a moment, then compare."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_UNASKED_SECONDS):
                await self._rung.wait()
        self._rung.clear()
        await self.run_once(execution)

    async def run_once(self, execution: Execution) -> None:
        """Compare once, and act on every difference."""
        here = execution.running()
        claimed = {one.key: one for one in await claimed_by(await self._connected(), self._identity.id)}
        execution.interrupt((key for key, one in claimed.items() if one.cancel_requested), Interruption.REQUESTED)
        execution.interrupt(here - claimed.keys(), Interruption.LOST)
        stranded = [one for key, one in claimed.items() if one.long_ago and not self._belt.holds(key)]
        for one in stranded:
            logger.warning("run_lost", job_id=str(one.job_id), attempt=one.attempt)
            await self._settler.settle(lost(one))

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.terminate()

    async def _connected(self) -> asyncpg.Connection[asyncpg.Record]:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(
                self._database_url, timeout=_PATIENCE_SECONDS, command_timeout=_PATIENCE_SECONDS
            )
            await self._connection.add_listener(Bell.CANCELS.value, lambda *_: self._rung.set())
        return self._connection
