"""The application `replaying`: a subscriber and a projection whose work tells whether it was done once.

Processes load it as `HEADRACE_APPLICATIONS=tests.replaying:application`. What the subscriber writes has no unique key,
so that an effect which happened twice is seen twice; it takes a moment, so that a process can be killed in the middle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from sqlalchemy import text

from headrace.application import Application
from headrace.events.model import RecordedEvent
from headrace.events.registry import event
from headrace.subscribers.contract import projection, subscriber
from headrace.subscribers.delivery import Delivery
from headrace.transaction import Transaction

TABLES = """
    CREATE TABLE replayed (key text, number int, replay uuid, place bigserial);
    CREATE TABLE counted (key text PRIMARY KEY, things bigint NOT NULL, total bigint NOT NULL)
"""
_MOMENT_SECONDS = 0.01
_ADD = text("""
    INSERT INTO counted
    SELECT key, count(*), sum(number) FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(key text, number int)
    GROUP BY key ORDER BY key
    ON CONFLICT (key) DO UPDATE SET things = counted.things + excluded.things, total = counted.total + excluded.total
""")


@event("replaying.thing.happened", subject="key")
class Thing(msgspec.Struct, frozen=True):
    """Something happened."""

    key: str
    number: int


@subscriber("replaying.noted", Thing)
async def noted(delivery: Delivery, thing: Thing) -> None:
    """Note a thing, slowly."""
    tx = await delivery.begin()
    row = {"key": thing.key, "number": thing.number, "replay": delivery.replay}
    await tx.connection.execute(text("INSERT INTO replayed VALUES (:key, :number, :replay)"), row)
    await asyncio.sleep(_MOMENT_SECONDS)


@projection("replaying.counted", Thing, tables=("counted",))
async def counted(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
    """Count things by key, slowly."""
    await tx.connection.execute(_ADD, {"rows": f"[{','.join(event.data for event in events)}]"})
    await asyncio.sleep(_MOMENT_SECONDS)


application = Application(
    name="replaying", events=(Thing,), subscriptions=(noted, counted), migrations="storefront.migrations"
)
