"""Groups: how fast subscriptions handle a backlog that stands in the streams.

Owns the measurement of Headrace's consumers, of FastStream's and of a bare redis-py loop, one process for each group,
all over the same Redis. Every message is there, and every group begins before the first, when the processes start. The
clock is each process's tally: it runs from the first moment at which a group has handled a tenth to the last message of
the last group. Headrace has on what a deployment has on: leases, checkpoints, the inbox, spans, and a relay that trims.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, aclosing
from pathlib import Path
from uuid import uuid4

import msgspec
from redis.asyncio import Redis

from bench import grouped, loop
from bench.peer import PEERS, Peer, run_to_end
from bench.peers.tally import WARM
from bench.stage import Meter, Stage, connected, module
from headrace.database.record import open_record
from headrace.events.log import new_event
from headrace.events.model import RecordedEvent
from headrace.settings import Settings
from headrace.stack.program import Program
from headrace.streams.payload import encode
from headrace.subscribers.checkpoints import register
from headrace.subscribers.contract import Subscription
from headrace.transaction import transaction

_APPLICATIONS = "storefront.application:application,bench.grouped:application"
_NAMES = ("first", "second", "third")
_BATCH = 500
_POLL_SECONDS = 0.02
_PATIENCE_SECONDS = 180.0
_PLACED = "SELECT coalesce(sum(head), 0) FROM lanes"
FASTSTREAM = Peer(name="faststream", command=("faststream", "run", "--log-level", "warning", "app:app"), least=8)


class Delivered(msgspec.Struct, frozen=True):
    """How fast all groups together handled their messages; `cost` is processor time per delivery in microseconds."""

    deliveries: int
    seconds: float
    cost: dict[str, float]

    @property
    def rate(self) -> float:
        """Deliveries per second, of all groups together."""
        return self.deliveries / self.seconds


async def deliver_headrace(stage: Stage, subscriptions: Sequence[Subscription], events: int) -> Delivered:
    """Publish events, wait until the streams have them, and let one process handle each subscription."""
    environment = stage.environment(HEADRACE_APPLICATIONS=_APPLICATIONS)
    settings = Settings(database_url=stage.database_url, redis_url=stage.redis_url)
    async with open_record(settings) as record, connected(stage) as connection:
        for statement in grouped.TABLES:
            await connection.execute(statement)
        await register(record.engine, subscriptions)
        before = await connection.fetchval(_PLACED)
        for first in range(0, events, _BATCH):
            async with transaction(record) as tx:
                await tx.publish_events([new_event(tick) for tick in _ticks(first, min(first + _BATCH, events))])
        with stage.running("relay", "headrace.cli", "relay", environment=environment):
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while await connection.fetchval(_PLACED) - before < events:
                    await asyncio.sleep(_POLL_SECONDS)
            return await _delivered(stage, events, _consumers(subscriptions, environment))


async def deliver_faststream(stage: Stage, python: Path, events: int, *, batch: int = 0) -> Delivered:
    """Publish messages for FastStream and let one process handle each group, `batch` at a time, or one by one."""
    environment = {
        "PYTHONPATH": str(PEERS),
        "BENCH_REDIS_URL": stage.redis_url,
        "BENCH_BATCH": str(batch),
    }
    await run_to_end(python, "fill.py", str(events), environment=environment, place=FASTSTREAM.place)
    command = (str(python.with_name(FASTSTREAM.command[0])), *FASTSTREAM.command[1:])
    programs = [
        Program(
            name=f"faststream {name}",
            command=command,
            environment=environment | {"BENCH_GROUP": name},
            working_directory=FASTSTREAM.place,
        )
        for name in _NAMES
    ]
    try:
        return await _delivered(stage, events, programs)
    finally:
        await _drop(stage, "peer")


async def deliver_bare(stage: Stage, events: int) -> Delivered:
    """Put the same events into a stream of their own and let one bare loop read each group."""
    async with aclosing(Redis.from_url(stage.redis_url, protocol=2)) as redis:
        for first in range(0, events, _BATCH):
            pipeline = redis.pipeline(transaction=False)
            for payload in _payloads(first, min(first + _BATCH, events)):
                pipeline.xadd(loop.STREAM, {loop.FIELD: payload})
            await pipeline.execute()
        for name in _NAMES:
            await redis.xgroup_create(loop.STREAM, name, id="0")
    programs = [module("bare", "bench.loop", environment=stage.environment(BENCH_GROUP=name)) for name in _NAMES]
    try:
        return await _delivered(stage, events, programs)
    finally:
        await _drop(stage, loop.STREAM)


def _consumers(subscriptions: Iterable[Subscription], environment: Mapping[str, str]) -> list[Program]:
    return [
        module(
            "consume",
            *("headrace.cli", "consume"),
            environment={**environment, "HEADRACE_SUBSCRIPTIONS": subscription.name},
        )
        for subscription in subscriptions
    ]


async def _delivered(stage: Stage, events: int, programs: Sequence[Program]) -> Delivered:
    """Run the programs, each with a tally of its own, until all have handled everything."""
    tallies = [stage.directory / f"tally-{uuid4().hex}" for _ in programs]
    with ExitStack() as stack:
        for program, tally in zip(programs, tallies, strict=True):
            environment = {**program.environment, "BENCH_TALLY": str(tally), "BENCH_EVENTS": str(events)}
            stack.enter_context(stage.program(msgspec.structs.replace(program, environment=environment)))
        meter = Meter(postgres=stage.postgres, redis=stage.redis)
        meter.start()
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while not all(tally.exists() for tally in tallies):
                await asyncio.sleep(_POLL_SECONDS)
        cost = meter.microseconds_per(events * len(programs))
    told = [tuple(map(float, tally.read_text().split())) for tally in tallies]
    seconds = max(ended for _, ended, _ in told) - min(warm for warm, _, _ in told)
    counted = int(events * len(programs) * (1 - WARM))
    return Delivered(counted, seconds, {"consumer": 1e6 * sum(used for _, _, used in told) / counted} | cost)


def _ticks(first: int, end: int) -> list[grouped.Ticked]:
    return [grouped.Ticked(number, number % grouped.KEYS) for number in range(first, end)]


def _payloads(first: int, end: int) -> list[bytes]:
    """Return what the relay would write for the same events."""
    return [encode(_recorded(tick)) for tick in _ticks(first, end)]


def _recorded(tick: grouped.Ticked) -> RecordedEvent:
    """Return an event as it would stand on lane 0."""
    new = new_event(tick)
    return RecordedEvent(
        new.id, new.type, new.version, new.source, new.source_id, new.subject, 0, tick.number + 1, new.time, new.time,
        bytes(new.data).decode(), f"00-{new.id.hex}-{new.id.hex[16:]}-00",
    )  # fmt: skip


async def _drop(stage: Stage, key: str) -> None:
    async with aclosing(Redis.from_url(stage.redis_url, protocol=2)) as redis:
        await redis.delete(key)
