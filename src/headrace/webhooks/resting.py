"""The fan-out rests while there is no webhook, and costs nothing then.

Owns the leap: where no webhook is enabled, the checkpoint of the fan-out follows the heads of the lanes by itself, and
no consumer reads the lanes for it. The leap holds the checkpoint's rows before it looks whether there is a webhook, and
whoever enables one holds them too, so that no event falls between. Never leap without that lock.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import text

from headrace.database.record import Record
from headrace.webhooks.model import FAN_OUT

_HOLD: Final = text("SELECT lane FROM checkpoints WHERE subscription = :name ORDER BY lane FOR UPDATE SKIP LOCKED")

# A statement of its own, after the lock: only now does it see every webhook that was enabled before.
_LEAP: Final = text("""
    UPDATE checkpoints SET position = lanes.head, updated_at = now() FROM lanes
    WHERE checkpoints.subscription = :name AND checkpoints.lane = ANY(:held) AND lanes.lane = checkpoints.lane
      AND checkpoints.position < lanes.head AND NOT EXISTS (SELECT FROM webhooks WHERE enabled)
""")


async def leap(record: Record) -> None:
    """Bring the checkpoint of the fan-out to the heads of the lanes, where no webhook is enabled."""
    async with record.engine.begin() as connection:
        held = list((await connection.execute(_HOLD, {"name": FAN_OUT})).scalars())
        if held:
            await connection.execute(_LEAP, {"name": FAN_OUT, "held": held})
