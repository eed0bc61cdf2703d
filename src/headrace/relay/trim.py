"""Trimming by the leader: the belt holds what some subscription has yet to acknowledge, and little else.

Owns how far each lane is trimmed: the lowest checkpoint of all subscriptions, from the record. A lane that cannot be
trimmed because one subscription is far behind is logged with that subscription's name, once a minute. Never trim by
what Redis says is pending.
"""

from __future__ import annotations

import time

import asyncpg
import structlog

from headrace.relay.position import acknowledged, heads
from headrace.streams.connection import AWAY
from headrace.streams.transport import LaneWriter

logger = structlog.get_logger(__name__)

TRIM_SECONDS = 1.0
HELD_EVENTS = 100_000
"""How many events a lane may hold before its blocker is named."""

_NAMING_SECONDS = 60.0


class Trimmer:
    """Trims all lanes, each second."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], writer: LaneWriter) -> None:
        self._connection = connection
        self._writer = writer
        self._due_at = 0.0
        self._named_at: dict[int, float] = {}

    async def step(self) -> None:
        """Trim every lane, if it is time: also one that an older copy of Redis has brought back."""
        if time.monotonic() < self._due_at:
            return
        self._due_at = time.monotonic() + TRIM_SECONDS
        bounds = await acknowledged(self._connection)
        for lane, head in (await heads(self._connection)).items():
            position, blocker = bounds[lane]
            if head - position > HELD_EVENTS:
                self._name(lane, head - position, blocker)
        try:
            await self._writer.trim({lane: position for lane, (position, _) in bounds.items()})
        except AWAY:
            return  # failure table: Redis is away; there is nothing to trim then

    def _name(self, lane: int, held: int, blocker: str | None) -> None:
        if time.monotonic() >= self._named_at.get(lane, 0.0):
            self._named_at[lane] = time.monotonic() + _NAMING_SECONDS
            logger.warning("trim_held_back", lane=lane, events=held, subscription=blocker)
