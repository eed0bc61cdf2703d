"""Ownership: which lanes of which subscription this process reads.

Owns the leases `sub:<subscription>:<lane>` of this process. Each round renews all of them in one statement, finds out
who else consumes, takes free lanes up to its fair share, and gives back what is above it once the lane is finished. A
process that died is noticed when its leases run out; one that stops gives its lanes back at once. A process that could
not renew for the lease's time stops with its lanes by itself. Never read a lane without its lease.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

import msgspec
import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from headrace.leases import Fence, Leases
from headrace.subscribers.consumer import Consumer
from headrace.webhooks.model import FAN_OUT

logger = structlog.get_logger(__name__)

# The fan-out of webhooks is nobody's while there is none: `headrace.webhooks.resting` moves it then.
_SURVEY = text(f"""
    SELECT
        ARRAY(SELECT lane FROM lanes ORDER BY lane) AS lanes,
        ARRAY(SELECT name FROM subscriptions WHERE paused
              UNION SELECT '{FAN_OUT}' WHERE NOT EXISTS (SELECT FROM webhooks WHERE enabled)) AS paused,
        ARRAY(SELECT name FROM leases WHERE name LIKE 'sub:%' AND expires_at > now()) AS busy,
        EXISTS (SELECT FROM lane_resize WHERE hand_over_until > now()) AS resizing,
        (SELECT coalesce(jsonb_object_agg(id, tasks), '{{}}') FROM processes
         WHERE role = 'consume' AND expires_at > now()) AS peers
""")  # noqa: S608 - composed of constants


class Survey(msgspec.Struct, frozen=True):
    """What the record says about lanes and their readers: `peers` are the live processes with their subscriptions."""

    lanes: Sequence[int]
    paused: Collection[str]
    busy: Collection[str]
    peers: Mapping[str, Collection[str]]
    resizing: bool = False
    """The number of lanes is about to change: nobody has any meanwhile."""

    def share_of(self, holder: UUID, subscription: str) -> int:
        """Return how many lanes of a subscription are this holder's: equal shares, the odd ones to the oldest."""
        if self.resizing or subscription in self.paused:
            return 0
        readers = sorted({str(holder), *(one for one, names in self.peers.items() if subscription in names)})
        share, odd = divmod(len(self.lanes), len(readers))
        return share + (readers.index(str(holder)) < odd)


def lease_name(subscription: str, lane: int) -> str:
    """Return the name of the lease on a lane of a subscription."""
    return f"sub:{subscription}:{lane}"


class Ownership:
    """Takes, keeps and gives back the lanes of this process's consumers."""

    def __init__(
        self, engine: AsyncEngine, leases: Leases, consumers: Mapping[str, Consumer], *, lease_seconds: float
    ) -> None:
        self._engine = engine
        self._leases = leases
        self._consumers = consumers
        self._lease_seconds = lease_seconds
        self._renewed_at = time.monotonic()

    @property
    def held(self) -> dict[str, Fence]:
        """The leases of all lanes that this process has."""
        return {
            lane.fence.name: lane.fence for consumer in self._consumers.values() for lane in consumer.lanes.values()
        }

    async def run_once(self) -> None:
        """Renew, then move towards the fair share."""
        await self._renew()
        survey = await self._survey()
        for consumer in self._consumers.values():
            self._drain_surplus(consumer, survey)
        await self._give_back()
        await self._take(survey)

    async def finish(self) -> bool:
        """Read nothing more; give back the lanes that are finished; tell whether none is left."""
        for consumer in self._consumers.values():
            for lane in consumer.lanes.values():
                lane.draining = True
        await self._renew()
        await self._give_back()
        return not self.held

    async def abandon(self) -> None:
        """Give everything back at once: what was taken up and is not done comes again elsewhere."""
        held = self.held
        self._lose(held)
        await self._leases.release(held)

    async def _renew(self) -> None:
        held, asked_at = self.held, time.monotonic()
        try:
            kept = await self._leases.renew(held)
        except Exception:
            if time.monotonic() - self._renewed_at > self._lease_seconds:
                self._lose(held)
            raise
        self._renewed_at = asked_at
        self._lose({name: fence for name, fence in held.items() if name not in kept})

    def _lose(self, leases: Collection[str]) -> None:
        for consumer in self._consumers.values():
            for number in [number for number, lane in consumer.lanes.items() if lane.fence.name in leases]:
                consumer.lose(number)

    async def _survey(self) -> Survey:
        async with self._engine.connect() as connection:
            row = (await connection.execute(_SURVEY)).one()
        return Survey(row.lanes, row.paused, row.busy, row.peers, row.resizing)

    def _drain_surplus(self, consumer: Consumer, survey: Survey) -> None:
        share = survey.share_of(self._leases.holder, consumer.subscription.name)
        held = sorted(consumer.lanes, key=lambda number: (number not in survey.lanes, number))
        for place, number in enumerate(held):
            if place >= share or number not in survey.lanes:
                consumer.lanes[number].draining = True  # for good: what it has left is the next owner's

    async def _give_back(self) -> None:
        finished = [
            (consumer, lane)
            for consumer in self._consumers.values()
            for lane in list(consumer.lanes.values())
            if lane.draining and lane.is_finished
        ]
        for consumer, lane in finished:
            consumer.give_back(lane.number)
        await self._leases.release({lane.fence.name: lane.fence for _, lane in finished})

    async def _take(self, survey: Survey) -> None:
        wanted: dict[str, tuple[Consumer, int]] = {}
        for name, consumer in self._consumers.items():
            missing = survey.share_of(self._leases.holder, name) - len(consumer.lanes)
            free = [number for number in survey.lanes if lease_name(name, number) not in survey.busy]
            for number in free[: max(missing, 0)]:
                wanted[lease_name(name, number)] = (consumer, number)
        for name, fence in (await self._leases.take(list(wanted))).items():
            consumer, number = wanted[name]
            consumer.own(number, fence)
            logger.info("lane_taken", lease=name, epoch=fence.epoch)
