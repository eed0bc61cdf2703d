"""The application of the bus within one process, and a program that is one: `python -m tests.bus COUNT`.

The program publishes so many things of three keys while its bus handles them, and runs until it is killed.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

import msgspec
from sqlalchemy import text

from headrace.application import Application
from headrace.events.model import RecordedEvent
from headrace.events.registry import event
from headrace.in_process.bus import Bus, in_process
from headrace.jobs.retry import Retry
from headrace.settings import Settings
from headrace.subscribers.contract import projection, subscriber
from headrace.subscribers.delivery import Delivery
from headrace.tasks.contract import task
from headrace.tasks.run import Run
from headrace.transaction import Transaction
from tests.conftest import MIGRATIONS

TABLE = "CREATE TABLE seen (seq bigint GENERATED ALWAYS AS IDENTITY, by text, key text, number integer)"
SEEN = text("INSERT INTO seen (by, key, number) VALUES (:by, :key, :number)")
FAST = Retry(max_attempts=3, first_delay_seconds=0.02, max_delay_seconds=0.05)


@event("bus.thing", subject="key")
class Thing(msgspec.Struct, frozen=True):
    """Something happened to a key."""

    key: str
    number: int


@task("bus.follow")
async def follow(run: Run, key: str, number: int) -> str:
    """Do what follows."""
    async with run.claim(f"{key}:{number}", seconds=60) as mine:
        await _see(await run.begin(), "job", key, number)
        return "done" if mine else "done before"


@subscriber("bus.react", Thing, retry=FAST)
async def react(delivery: Delivery, thing: Thing) -> None:
    """Write an effect; fail at the first attempt where the number is negative, and make a job where it is large."""
    tx = await delivery.begin()
    await _see(tx, "subscriber", thing.key, thing.number)
    if thing.number < 0 and delivery.attempt == 1:
        raise ConnectionError
    if thing.number >= 1000:
        await tx.enqueue(follow, thing.key, thing.number)


@projection("bus.fold", Thing)
async def fold(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
    """Write an effect for each."""
    for one in events:
        thing = msgspec.json.decode(one.data, type=Thing)
        await _see(tx, "projection", thing.key, thing.number)


application = Application(
    name="bus", tasks=(follow,), events=(Thing,), subscriptions=(react, fold), migrations=MIGRATIONS[0]
)


async def _see(tx: Transaction, by: str, key: str, number: int) -> None:
    await tx.connection.execute(SEEN, {"by": by, "key": key, "number": number})


async def publish(bus: Bus, *numbers: int) -> list[Thing]:
    """Publish things of three keys, each in a transaction of its own."""
    things = [Thing(f"key {number % 3}", number) for number in numbers]
    for thing in things:
        await bus.publish(thing)
    return things


async def main(count: int) -> None:
    """Publish, and go on handling."""
    async with in_process(Settings.from_environment(os.environ), application) as bus:
        await publish(bus, *range(count))
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
