"""The processes of the event road, for tests that kill them: `event_road.py relay`, and so on.

Roles are `relay`, `dying-relay`, `dying-late-relay`, `consume`, `holding-consume` and `publish`. Everything is the real
thing on the settings of the environment. `holding-consume` stays for ever in its transaction with the number 7777.
`dying-relay` kills itself with SIGKILL between its two writes: when positions are committed and before the append to
the stream; `dying-late-relay` after them, when the batch is in the stream and nobody has taken note of it. The
subscriber and the projection write to the table `effects`; on the number 13 the subscriber stops Redis from taking
writes, so that what is handled then is committed and cannot be acknowledged.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence

import uvloop
from sqlalchemy import text

from headrace.database.record import open_record
from headrace.events.model import RecordedEvent
from headrace.loops import Stop
from headrace.relay.leader import Leadership
from headrace.relay.moving import move_events, move_with
from headrace.relay.process import run_relay
from headrace.relay.sessions import end_sessions
from headrace.settings import Settings
from headrace.streams.append import RedisWriter
from headrace.streams.connection import command, open_commands
from headrace.streams.transport import Batch
from headrace.subscribers.contract import projection, subscriber
from headrace.subscribers.delivery import Delivery
from headrace.subscribers.process import run_consume
from headrace.telemetry.setup import configure
from headrace.transaction import Transaction
from tests.conftest import MIGRATIONS
from tests.lanes import Thing, publish, registry_of

SETTINGS = Settings.from_environment(os.environ)
UNLUCKY = 13
FAILING = -1
HELD = 7777
_HELD_MILLISECONDS = 20_000


@subscriber("tests.effects", Thing)
async def effects(delivery: Delivery, thing: Thing) -> None:
    """Write an effect through the session."""
    tx = await delivery.begin()
    await _write(tx, "subscriber", thing.key, thing.number)
    if thing.number == HELD and sys.argv[1] == "holding-consume":
        await asyncio.Event().wait()
    if thing.number == FAILING:
        raise ConnectionError
    if thing.number == UNLUCKY:
        redis = open_commands(SETTINGS.redis_url)
        await command(redis, "CLIENT", "PAUSE", _HELD_MILLISECONDS, "WRITE")
        await redis.aclose()


@projection("tests.folded", Thing)
async def folded(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
    """Write an effect for each event of a batch."""
    for event in events:
        await _write(tx, "projection", f"lane {event.lane}", event.position)


async def _write(tx: Transaction, by: str, key: str, number: int) -> None:
    statement = text("INSERT INTO effects (by, key, number) VALUES (:by, :key, :number)")
    await tx.connection.execute(statement, {"by": by, "key": key, "number": number})


class DyingWriter(RedisWriter):
    """Dies instead of appending."""

    async def append(self, batches: Sequence[Batch]) -> dict[int, int]:
        """Die as by the kernel's hand; to append nothing is to ask, and is answered."""
        if any(batch.payloads for batch in batches):
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().append(batches)


class DyingLateWriter(RedisWriter):
    """Dies when it has appended something."""

    async def append(self, batches: Sequence[Batch]) -> dict[int, int]:
        """Append, and die as by the kernel's hand."""
        ends = await super().append(batches)
        if any(batch.payloads for batch in batches):
            os.kill(os.getpid(), signal.SIGKILL)
        return ends


async def move_and_die_late(leadership: Leadership) -> None:
    """Move events until the first append has happened."""
    await move_with(leadership, DyingLateWriter(leadership.redis))


async def move_and_die(leadership: Leadership) -> None:
    """Move events until the first append."""
    await move_with(leadership, DyingWriter(leadership.redis))


async def publish_one() -> None:
    """Publish one event in a trace of its own, as an API does."""
    telemetry = configure("publisher")
    async with open_record(SETTINGS) as record:
        await publish(record, [Thing("a", FAILING)])
    telemetry.shutdown()


async def main(role: str) -> None:
    """Be the process."""
    if role == "publish":
        await publish_one()
        return
    stop = Stop()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    if role.endswith("consume"):
        await run_consume(SETTINGS, registry_of(effects, folded), stop)
    else:
        part = {"dying-relay": move_and_die, "dying-late-relay": move_and_die_late}.get(role, move_events)
        await run_relay(SETTINGS, stop, migrations=MIGRATIONS, parts=(part, end_sessions))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
