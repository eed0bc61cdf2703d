"""A worker and the record agree about what the worker runs.

Owns the comparison, made every second. What the record wants cancelled is cancelled; what it has given to others (the
worker was paused, or cut off from PostgreSQL for longer than its lease) is stopped, because its outcome would be
refused anyway; what it says is running here, and is not (the answer to a claim was lost with a connection), is given up
as lost and runs again. Never decide by the worker's memory alone: the record may have moved on.
"""

from __future__ import annotations

import asyncpg
import structlog

from headrace.jobs.claim import claimed_by
from headrace.presence import Identity
from headrace.tasks.belt import Belt
from headrace.tasks.execution import Execution, Interruption
from headrace.tasks.outcome import lost
from headrace.tasks.settler import Settler

logger = structlog.get_logger(__name__)

_PATIENCE_SECONDS = 5.0


class Reconciliation:
    """Compares; `run_once` is called as often as it should be noticed."""

    def __init__(self, database_url: str, identity: Identity, *, belt: Belt, settler: Settler) -> None:
        self._database_url = database_url
        self._identity = identity
        self._belt = belt
        self._settler = settler
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None

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
        return self._connection
