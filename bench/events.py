"""Events: how fast the relay moves a backlog onto the belt, and how soon a lone event is heard.

Owns both measurements. The backlog is on record before the relay starts, and counts as moved when the streams end
where the lanes do. A lone event is published by this process with nothing else going on, after random pauses; its
latency is from the return of its commit to the first line of its subscriber in another process.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, aclosing, contextmanager
from pathlib import Path

import msgspec
from redis.asyncio import Redis

from bench import heard
from bench.stage import Meter, Stage, connected
from headrace.database.record import open_record
from headrace.events.log import new_event
from headrace.settings import Settings
from headrace.streams.append import RedisWriter
from headrace.streams.transport import Batch
from headrace.transaction import transaction

APPLICATIONS = "storefront.application:application,bench.heard:application"
LANES = 4
"""How many lanes a new database has."""
_BATCH = 500
_POLL_SECONDS = 0.02
_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = (0.02, 0.08)
_WARM = 20
"""Ticks that only see to it that connections are open, statements prepared and lanes owned."""


class Moved(msgspec.Struct, frozen=True):
    """A backlog of events that reached the streams; `cost` is processor time per event in microseconds, by process."""

    events: int
    seconds: float
    cost: dict[str, float]

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds from commit to handler."""

    milliseconds: list[float]

    def percentile(self, hundredth: int) -> float:
        """Return the latency that this many hundredths of the events did not exceed."""
        return statistics.quantiles(self.milliseconds, n=100)[hundredth - 1]


async def measure_relay(stage: Stage, events: int) -> Moved:
    """Put events on record, start a relay, and wait until the streams have them."""
    await _publish(stage, events)
    environment = stage.environment(HEADRACE_APPLICATIONS=APPLICATIONS)
    async with aclosing(Redis.from_url(stage.redis_url, protocol=2)) as redis:
        writer = RedisWriter(redis)

        async def moved() -> int:
            return sum((await writer.append([Batch(lane, 0, ()) for lane in range(LANES)])).values())

        before = await moved()
        with stage.running("relay", "headrace.cli", "relay", environment=environment) as relay:
            meter = Meter(relay=relay, postgres=stage.postgres, redis=stage.redis)
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while (first := await moved() - before) == 0:
                    await asyncio.sleep(_POLL_SECONDS)
                began_at = time.monotonic()
                meter.start()
                while await moved() - before < events:
                    await asyncio.sleep(_POLL_SECONDS)
            return Moved(events - first, time.monotonic() - began_at, meter.microseconds_per(events - first))


async def measure_latency(stage: Stage, events: int) -> Latency:
    """Publish events one by one and compare the moments of their commits with those at which they were heard."""
    notes = stage.directory / "heard"
    notes.touch()
    with _listening(stage, notes):
        await _until_consumed(stage)
        settings = Settings(database_url=stage.database_url, redis_url=stage.redis_url)
        async with open_record(settings) as record:
            committed: dict[int, int] = {}
            for number in range(_WARM + events):
                async with transaction(record) as tx:
                    await tx.publish(heard.Ticked(number))
                committed[number] = time.time_ns()
                await asyncio.sleep(random.uniform(*_PAUSE_SECONDS))  # noqa: S311 - spreads the load, keeps no secret
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while len(lines := notes.read_text().splitlines()) < _WARM + events:
                await asyncio.sleep(_POLL_SECONDS)
    moments = {int(number): int(moment) for number, moment in (line.split() for line in lines)}
    return Latency([(moments[number] - committed[number]) / 1e6 for number in range(_WARM, _WARM + events)])


@contextmanager
def _listening(stage: Stage, notes: Path) -> Iterator[None]:
    environment = stage.environment(HEADRACE_APPLICATIONS=APPLICATIONS, **{heard.VARIABLE: str(notes)})
    with ExitStack() as stack:
        for process in ("relay", "consume"):
            stack.enter_context(stage.running(process, "headrace.cli", process, environment=environment))
        yield


async def _until_consumed(stage: Stage) -> None:
    """Wait until the subscription has its checkpoints: from there on it misses nothing."""
    async with connected(stage) as connection, asyncio.timeout(_PATIENCE_SECONDS):
        ready = "SELECT count(*) FROM checkpoints WHERE subscription = $1"
        while await connection.fetchval(ready, heard.heard.name) < LANES:
            await asyncio.sleep(_POLL_SECONDS)
        leading = "SELECT count(*) FROM leases WHERE expires_at > now()"
        while await connection.fetchval(leading) == 0:
            await asyncio.sleep(_POLL_SECONDS)


async def _publish(stage: Stage, events: int) -> None:
    settings = Settings(database_url=stage.database_url, redis_url=stage.redis_url)
    async with open_record(settings) as record:
        for first in range(0, events, _BATCH):
            async with transaction(record) as tx:
                await tx.publish_events([new_event(heard.Ticked(number)) for number in range(first, first + _BATCH)])
