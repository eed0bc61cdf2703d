"""A run of chaos on events: a deployment under load, and everything in it dies, again and again.

Owns the order of things: stores, processes, then producers and misfortune side by side, then quiet until every
subscription has passed every event and no failed delivery is left, then the checker. Its plan is made of the seed
alone. The stores are this run's own, as are all processes; none is left when the run ends.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import asyncpg
import msgspec

from headrace.database.states import FINISHED
from headrace.events.log import new_event
from headrace.events.model import NewEvent
from headrace.transaction import transaction
from tests.chaos import listeners
from tests.chaos.blows import EVENT_BLOWS, Kind, plan
from tests.chaos.misfortune import Misfortune
from tests.event_history import Heard, Verdict, check_events
from tests.job_processes import World, processes, settings_of
from tests.own_stores import own_postgres, own_redis

RELAYS: Final = 2
CONSUMERS: Final = 2
_PRODUCERS: Final = 8
_TOGETHER: Final = 25
_PAUSE_SECONDS: Final = 0.2
_LOAD_SHARE: Final = 0.9
"""The part of the time in which events are published."""
_CALM_LOOKS: Final = 5
_UNSETTLED: Final = """
    SELECT EXISTS (SELECT FROM outbox) OR EXISTS (SELECT FROM jobs WHERE NOT state::text = ANY($1))
        OR EXISTS (SELECT FROM checkpoints c JOIN lanes l ON l.lane = c.lane WHERE c.position < l.head)
"""
_REGISTERED: Final = "SELECT 1 FROM subscriptions WHERE name LIKE 'chaos.%' HAVING count(*) = 3"
_MENDS: Final = "SELECT reason, times FROM belt_mends ORDER BY reason"
_DEAD: Final = "SELECT count(*) FROM jobs WHERE state = 'dead'"


class EventMeasure(msgspec.Struct, frozen=True, kw_only=True):
    """How large a run is."""

    seed: int
    seconds: float
    events: int
    keys: int = 1000
    lease_seconds: float = 3.0
    every_seconds: float = 2.5
    """The mean time between two blows."""
    patience_seconds: float = 600.0
    """How long everything may still take when it is quiet again."""


class EventResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run."""

    measure: EventMeasure
    verdict: Verdict
    struck: Mapping[Kind, int]
    mends: Mapping[str, int]
    """How often something was mended, by reason."""
    dead: int
    """Failed deliveries that ended dead: workers died under them."""
    settled_seconds: float
    """How long after the end of load and misfortune the last event was handled."""


async def run_event_chaos(measure: EventMeasure, directory: Path) -> EventResult:
    """Run once, in a directory that keeps the logs and the ledger."""
    ledger = directory / "ledger"
    async with own_redis(directory) as redis, own_postgres(directory) as postgres:
        settings = msgspec.structs.replace(
            settings_of(postgres.url, redis.url, lease_seconds=measure.lease_seconds),
            applications="tests.chaos.listeners:application",
        )
        await listeners.prepare(postgres.url)
        async with processes(settings, directory) as world:
            world.variables[listeners.LEDGER] = str(ledger)
            await _started(world)
            misfortune, producers = Misfortune(world, redis, postgres), Producers(world, measure)
            async with asyncio.TaskGroup() as together:
                together.create_task(producers.run())
                blows = plan(
                    measure.seed, seconds=measure.seconds, every_seconds=measure.every_seconds, shares=EVENT_BLOWS
                )
                together.create_task(misfortune.happen(blows))
            settled_seconds = await _settled(world, measure.patience_seconds)
            return await _result(world, misfortune, producers, ledger, settled_seconds)


class Producers:
    """Publishers in transactions; `accepted` is what was committed, in the order of the commits of each key."""

    def __init__(self, world: World, measure: EventMeasure) -> None:
        self.measure = measure
        self.accepted: list[Heard] = []
        self._world = world
        self._dice = random.Random(measure.seed)  # noqa: S311 - events that can be published again
        self._numbers: dict[str, int] = {}

    async def run(self) -> None:
        """Publish all of it, evenly over the time, or later where the record was away."""
        share = -(-self.measure.events // _PRODUCERS)
        async with asyncio.TaskGroup() as producers:
            for place in range(_PRODUCERS):
                keys = [f"key-{number}" for number in range(place, self.measure.keys, _PRODUCERS)]
                producers.create_task(self._produce(keys, min(share, self.measure.events - place * share), place))

    async def _produce(self, keys: Sequence[str], events: int, place: int) -> None:
        began_at = time.monotonic()
        per_second = events / (self.measure.seconds * _LOAD_SHARE)
        for first in range(0, events, _TOGETHER):
            await asyncio.sleep(max(0.0, began_at + first / per_second - time.monotonic()))  # its time to come
            chosen = [self._next(self._dice.choice(keys)) for _ in range(min(_TOGETHER, events - first))]
            things = [
                new_event(listeners.Happened(key, number, place + (first + at) * _PRODUCERS))
                for at, (key, number) in enumerate(chosen)
            ]
            while not await self._committed(things):
                await asyncio.sleep(_PAUSE_SECONDS)
            self.accepted += chosen

    def _next(self, key: str) -> Heard:
        number = self._numbers.get(key, 0)
        self._numbers[key] = number + 1
        return key, number

    async def _committed(self, things: Sequence[NewEvent]) -> bool:
        try:
            if await self._world.any_row("SELECT 1 FROM event_log WHERE id = $1", things[0].id):
                return True  # by the attempt before, whose answer was lost
            async with transaction(self._world.record) as tx:
                await tx.publish_events(things)
        except Exception:  # noqa: BLE001 - whatever a store that dies says, the producer tries again
            return False
        return True


async def _started(world: World) -> None:
    for _ in range(RELAYS):
        world.relay()
    for _ in range(CONSUMERS):
        world.consume()
    world.worker()
    await world.registered("relay", RELAYS)
    await world.registered("consume", CONSUMERS)
    await world.registered("worker")
    await world.eventually(lambda: world.any_row(_REGISTERED))


async def _settled(world: World, patience_seconds: float) -> float:
    """Wait until nothing is left to do; what is left when patience is over is lost, and the checker says so."""
    began_at = time.monotonic()
    calm = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(patience_seconds):
            while calm < _CALM_LOOKS:
                calm = 0 if await _is_unsettled(world) else calm + 1
                await asyncio.sleep(_PAUSE_SECONDS)
    return time.monotonic() - began_at


async def _is_unsettled(world: World) -> bool:
    with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return bool((await world.rows(_UNSETTLED, [state.value for state in FINISHED]))[0][0])
    return True


async def _result(
    world: World, misfortune: Misfortune, producers: Producers, ledger: Path, settled_seconds: float
) -> EventResult:
    driver = await asyncpg.connect(world.settings.database_url)
    try:
        return EventResult(
            measure=producers.measure,
            verdict=check_events(producers.accepted, await listeners.read_deeds(driver, ledger)),
            struck=dict(misfortune.struck),
            mends=dict(await driver.fetch(_MENDS)),
            dead=await driver.fetchval(_DEAD),
            settled_seconds=settled_seconds,
        )
    finally:
        await driver.close()
