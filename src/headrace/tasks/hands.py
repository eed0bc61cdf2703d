"""The hands of a worker: the jobs that were won together run side by side, and each is settled by itself.

Owns the way of a won delivery: run, settle, let go. What was won in one claim passes through Taskiq's receiver as one
message, because the receiver's own work for a message costs more than a small job; each job still has an asyncio task
of its own, ends by itself and frees its slot at once. A delivery is let go whatever happens: if its outcome could not
be recorded, the record still says that the job runs here, and the reconciliation gives it up as lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from headrace.tasks.belt import Belt, Delivery
from headrace.tasks.execution import Execution
from headrace.tasks.settler import Settler

logger = structlog.get_logger(__name__)


class Hands:
    """Carries deliveries to their outcome."""

    def __init__(self, execution: Execution, settler: Settler, belt: Belt) -> None:
        self._execution = execution
        self._settler = settler
        self._belt = belt

    async def carry(self, deliveries: Sequence[Delivery]) -> None:
        """Run and settle these; returns when the last one is settled."""
        if len(deliveries) == 1:
            await self._carry(deliveries[0])
            return
        runs = [asyncio.create_task(self._carry(delivery)) for delivery in deliveries]
        for ended in await asyncio.gather(*runs, return_exceptions=True):
            if isinstance(ended, BaseException):
                logger.error("run_not_settled", exc_info=ended)

    async def _carry(self, delivery: Delivery) -> None:
        try:
            outcome = await self._execution.execute(delivery.claim)
            if outcome is not None:
                await self._settler.settle(outcome)
        finally:
            self._belt.done(delivery)
