"""The dispatcher without a belt: what it releases is handed over, and nothing is put on a stream.

Owns the joint. Promotion of what is due, priorities, pauses, limits and concurrency keys are the dispatcher's own
statements. A new one is made for each release: it remembers nothing by the real clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import asyncpg
from redis.asyncio import Redis

from headrace.jobs.model import Claim
from headrace.relay.dispatch import Dispatcher


class _Hand(Dispatcher):
    """Keeps what was released."""

    def __init__(self) -> None:
        super().__init__(cast("Redis", None))
        self.released: list[Claim] = []

    async def _put_on_belt(self, queue: str, jobs: Sequence[Claim]) -> None:
        del queue
        self.released += jobs


async def release(connection: asyncpg.Connection[asyncpg.Record]) -> list[Claim]:
    """Release what is due and has room, as far as one worker with one slot can take it: one job of each queue."""
    hand = _Hand()
    await hand.run_once(connection)
    return sorted(hand.released, key=lambda claim: claim.job_id)
