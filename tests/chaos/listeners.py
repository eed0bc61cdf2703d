"""The application of the event side of chaos: one event, and three subscriptions that write down what they did.

`chaos.effects` writes through its session, `chaos.ordered` is ordered and fails now and then, `chaos.folded` is a
projection. The table has no constraint: a second effect must be visible, not refused. What is done outside is a line in
the ledger, a file that outlives every process. Processes load it as
`HEADRACE_APPLICATIONS=tests.chaos.listeners:application`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import asyncpg
import msgspec
from sqlalchemy import text

from headrace.application import Application
from headrace.events.model import RecordedEvent
from headrace.events.registry import event
from headrace.jobs.retry import Retry
from headrace.subscribers.contract import projection, subscriber
from headrace.subscribers.delivery import Delivery
from headrace.transaction import Transaction
from tests.event_history import Did, Heard

LEDGER: Final = "CHAOS_LEDGER"
"""The environment variable that names the ledger."""

_PATIENT: Final = Retry(max_attempts=50, first_delay_seconds=0.05, max_delay_seconds=1.0)
_SLOW: Final = 499
_UNLUCKY: Final = 200
_TABLE: Final = "CREATE TABLE chaos_heard (place bigserial, subscription text, key text, number integer)"
_WRITE: Final = text("INSERT INTO chaos_heard (subscription, key, number) VALUES (:subscription, :key, :number)")
_WRITE_ALL: Final = text("""
    INSERT INTO chaos_heard (subscription, key, number)
    SELECT :subscription, given.key, given.number
    FROM unnest(CAST(:keys AS text[]), CAST(:numbers AS int[])) WITH ORDINALITY AS given(key, number, place)
    ORDER BY given.place
""")
_HEARD: Final = "SELECT key, number FROM chaos_heard WHERE subscription = $1 ORDER BY place"


@event("chaos.thing.happened", subject="key")
class Happened(msgspec.Struct, frozen=True):
    """Something happened to a key: its events are numbered from 0."""

    key: str
    number: int
    of_all: int
    """Which of all events of the run this is."""


@subscriber("chaos.effects", Happened, retry=_PATIENT)
async def effects(delivery: Delivery, happened: Happened) -> None:
    """Have an effect through the session and one outside; now and then take a while in between."""
    tx = await delivery.begin()
    row = {"subscription": "chaos.effects", "key": happened.key, "number": happened.number}
    await tx.connection.execute(_WRITE, row)
    _note("chaos.effects", happened)
    if happened.of_all % _SLOW == 0:
        await asyncio.sleep(0.3)


@subscriber("chaos.ordered", Happened, ordered=True, retry=_PATIENT)
async def ordered(delivery: Delivery, happened: Happened) -> None:
    """Fail at first, now and then; have an effect outside."""
    if happened.of_all % _UNLUCKY == 0 and delivery.attempt == 1:
        message = "not at the first attempt"
        raise ConnectionError(message)
    _note("chaos.ordered", happened)


@projection("chaos.folded", Happened)
async def folded(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
    """Fold a batch into the table."""
    happened = [msgspec.json.decode(one.data, type=Happened) for one in events]
    row = {
        "subscription": "chaos.folded",
        "keys": [one.key for one in happened],
        "numbers": [one.number for one in happened],
    }
    await tx.connection.execute(_WRITE_ALL, row)


application = Application(
    name="chaos",
    events=(Happened,),
    subscriptions=(effects, ordered, folded),
    migrations="storefront.migrations",  # what the tests' databases have
)


async def prepare(database_url: str) -> None:
    """Make the table of effects."""
    connection = await asyncpg.connect(database_url)
    await connection.execute(_TABLE)
    await connection.close()


async def read_deeds(driver: asyncpg.Connection[asyncpg.Record], ledger: Path) -> dict[str, Did]:
    """Return what every subscription did."""
    outside = await asyncio.to_thread(_outside, ledger)
    return {
        "chaos.effects": Did(through_session=await _written(driver, "chaos.effects"), outside=outside["chaos.effects"]),
        "chaos.ordered": Did(outside=outside["chaos.ordered"]),
        "chaos.folded": Did(through_session=await _written(driver, "chaos.folded")),
    }


def _outside(ledger: Path) -> dict[str, list[Heard]]:
    deeds: dict[str, list[Heard]] = {"chaos.effects": [], "chaos.ordered": []}
    if ledger.exists():
        for line in ledger.read_text().splitlines():
            subscription, key, number = line.split()
            deeds[subscription].append((key, int(number)))
    return deeds


async def _written(driver: asyncpg.Connection[asyncpg.Record], subscription: str) -> list[Heard]:
    return [(row["key"], row["number"]) for row in await driver.fetch(_HEARD, subscription)]


def _note(subscription: str, happened: Happened) -> None:
    """Write one line, which is there whatever becomes of the transaction and of the process."""
    file = os.open(os.environ[LEDGER], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{subscription} {happened.key} {happened.number}\n".encode())
    finally:
        os.close(file)
