"""An application whose subscriptions do as little as their kind allows.

Owns the event `bench.tick.counted` and what listens to it: three subscribers that do nothing, one that writes in a
transaction of its own, and a projection that counts by key. Which of them runs, says `HEADRACE_SUBSCRIPTIONS`. Each
tells the tally what it has handled.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import text

from bench.peers.tally import Tally
from headrace.application import Application
from headrace.events.model import RecordedEvent
from headrace.events.registry import event
from headrace.subscribers.contract import projection, subscriber
from headrace.subscribers.delivery import Delivery
from headrace.transaction import Transaction

KEYS = 1000
TABLES = (
    "CREATE TABLE IF NOT EXISTS bench_written (number bigint)",
    "CREATE TABLE IF NOT EXISTS bench_counted (key integer PRIMARY KEY, ticks bigint NOT NULL)",
)
_WRITE = text("INSERT INTO bench_written VALUES (:number)")
_COUNT = text("""
    INSERT INTO bench_counted
    SELECT key, ticks FROM unnest(CAST(:keys AS int[]), CAST(:ticks AS int[])) AS given(key, ticks)
    ON CONFLICT (key) DO UPDATE SET ticks = bench_counted.ticks + excluded.ticks
""")

tally = Tally()


@event("bench.tick.counted", subject="key")
class Ticked(msgspec.Struct, frozen=True):
    """Something happened."""

    number: int
    key: int
    text: str = "x" * 100


@subscriber("bench.first", Ticked)
async def first(delivery: Delivery, ticked: Ticked) -> None:
    """Count."""
    del delivery, ticked
    tally()


@subscriber("bench.second", Ticked)
async def second(delivery: Delivery, ticked: Ticked) -> None:
    """Count."""
    del delivery, ticked
    tally()


@subscriber("bench.third", Ticked)
async def third(delivery: Delivery, ticked: Ticked) -> None:
    """Count."""
    del delivery, ticked
    tally()


@subscriber("bench.writer", Ticked)
async def writer(delivery: Delivery, ticked: Ticked) -> None:
    """Write in a transaction of its own."""
    tx = await delivery.begin()
    await tx.connection.execute(_WRITE, {"number": ticked.number})
    tally()


_decode = msgspec.json.Decoder(Ticked).decode


@projection("bench.counter", Ticked)
async def counter(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
    """Count by key."""
    counted: dict[int, int] = {}
    for one in events:
        key = _decode(one.data).key
        counted[key] = counted.get(key, 0) + 1
    await tx.connection.execute(_COUNT, {"keys": list(counted), "ticks": list(counted.values())})
    tally(len(events))


GROUPS = (first, second, third)
application = Application(name="bench", events=(Ticked,), subscriptions=(*GROUPS, writer, counter))
