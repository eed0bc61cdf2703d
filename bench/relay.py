"""The relay under load: how fast it moves while as many events are being committed, and how soon another takes over.

Owns both measurements. Producers commit at a steady rate, in transactions of a hundred, while the relay moves; what
counts is what reaches the streams in the same seconds. For the take-over two relays run; the leader is killed with
SIGKILL while one event is published every twentieth of a second, and what counts is the time from the kill until an
event published after it has its position. All settings are the default ones.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import ExitStack

import asyncpg
import msgspec

from bench import heard
from bench.stage import Stage, connected
from headrace.clock import new_id
from headrace.database.record import Record, open_record
from headrace.events.log import new_event
from headrace.settings import Settings
from headrace.transaction import transaction

_APPLICATIONS = "storefront.application:application,bench.heard:application"
_BATCH = 100
_PRODUCERS = 4
_WARM_SECONDS = 2.0
_POLL_SECONDS = 0.02
_TICK_SECONDS = 0.05
_PATIENCE_SECONDS = 60.0
_PLACED = "SELECT coalesce(sum(head), 0)::bigint FROM lanes"
_COMMITTED = "SELECT count(*) FROM event_log WHERE id > $1"
_LEADER = (
    "SELECT p.pid FROM leases l JOIN processes p ON p.id = l.holder WHERE l.name = 'relay' AND l.expires_at > now()"
)
_STANDING_BY = "SELECT count(*) FROM processes WHERE role = 'relay' AND expires_at > now()"
_FIRST_AFTER = "SELECT 1 FROM lane_log WHERE event_id > $1 LIMIT 1"


class Kept(msgspec.Struct, frozen=True):
    """Events a second: committed, and in the same seconds moved to the streams; `behind` waited at the end."""

    committed: float
    moved: float
    behind: int


async def measure_busy_relay(stage: Stage, *, per_second: int, seconds: float) -> Kept:
    """Commit at a steady rate and count what the relay moves meanwhile."""
    environment = stage.environment(HEADRACE_APPLICATIONS=_APPLICATIONS)
    settings = Settings(database_url=stage.database_url, redis_url=stage.redis_url)
    async with open_record(settings) as record, connected(stage) as connection:
        with stage.running("relay", "headrace.cli", "relay", environment=environment):
            first = new_id()
            before = await connection.fetchval(_PLACED)
            until = time.monotonic() + _WARM_SECONDS + seconds
            async with asyncio.TaskGroup() as group:
                for _ in range(_PRODUCERS):
                    group.create_task(_produce(record, per_second / _PRODUCERS, until))
                await asyncio.sleep(_WARM_SECONDS)
                began_at, placed = time.monotonic(), await connection.fetchval(_PLACED)
                committed = await connection.fetchval(_COMMITTED, first)
                await asyncio.sleep(max(until - time.monotonic() - _POLL_SECONDS, 0.0))
                moved = await connection.fetchval(_PLACED)
                taken = time.monotonic() - began_at
                whole = await connection.fetchval(_COMMITTED, first)
    return Kept((whole - committed) / taken, (moved - placed) / taken, int(whole - (moved - before)))


async def measure_takeover(stage: Stage, *, rounds: int) -> list[float]:
    """Kill the leading relay, a few times; return the seconds until its successor has moved an event."""
    environment = stage.environment(HEADRACE_APPLICATIONS=_APPLICATIONS)
    settings = Settings(database_url=stage.database_url, redis_url=stage.redis_url)
    taken = []
    async with open_record(settings) as record, connected(stage) as connection:
        for number in range(rounds):
            with ExitStack() as stack:
                for name in ("relay 1", "relay 2"):
                    stack.enter_context(
                        stage.running(f"{name} of {number}", "headrace.cli", "relay", environment=environment)
                    )
                await _until(connection, _STANDING_BY, at_least=2)
                os.kill(int(await _until(connection, _LEADER)), signal.SIGKILL)
                taken.append(await _next_moved(connection, record))
    return taken


async def _next_moved(connection: asyncpg.Connection[asyncpg.Record], record: Record) -> float:
    killed_at, after = time.monotonic(), new_id()
    number = 0
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while await connection.fetchval(_FIRST_AFTER, after) is None:
            async with transaction(record) as tx:
                await tx.publish(heard.Ticked(number))
            number += 1
            await asyncio.sleep(_TICK_SECONDS)
    return time.monotonic() - killed_at


async def _produce(record: Record, per_second: float, until: float) -> None:
    due_at = time.monotonic()
    number = 0
    while due_at < until:
        await asyncio.sleep(max(due_at - time.monotonic(), 0.0))
        async with transaction(record) as tx:
            await tx.publish_events([new_event(heard.Ticked(number + place)) for place in range(_BATCH)])
        number += _BATCH
        due_at += _BATCH / per_second


async def _until(connection: asyncpg.Connection[asyncpg.Record], query: str, *, at_least: float = 1) -> float:
    """Ask until the answer is a number of at least so much."""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while (answer := await connection.fetchval(query)) is None or answer < at_least:
            await asyncio.sleep(_POLL_SECONDS)
    return float(answer)
