"""Deliveries that wait for their webhook: held back, let go, given up.

Owns these moves over many deliveries, a thousand at a time, so that no transaction is unbounded: whoever lets some go
is followed by the next delivery that succeeds, which lets go of more. What is given up is cancelled with the reason on
its own row, and what was given up because the webhook was disabled is taken up again when it is enabled. Never cancel
what a worker has in hand: it sees for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.database.record import Bell
from headrace.jobs.redrive import REVIVED
from headrace.transaction import Transaction
from headrace.webhooks.model import QUEUE, Held, subscription_of
from headrace.webhooks.schedule import ATTEMPTS

PORTION: Final = 1000
Begin = Callable[[], AbstractAsyncContextManager[Transaction]]
"""Opens a transaction of its own for each portion."""

WAITING: Final = (Held.PAUSED, Held.CIRCUIT, Held.SECRET)

_HOLD: Final = text("UPDATE webhook_deliveries SET held = :held, reason = :reason WHERE id = :id")

_IS_ENABLED: Final = text("SELECT enabled FROM webhooks WHERE id = :id FOR SHARE")

_RELEASE: Final = text(f"""
    WITH freed AS (
        UPDATE webhook_deliveries SET held = NULL, reason = NULL
        WHERE id IN (SELECT id FROM webhook_deliveries
                     WHERE webhook_id = :webhook_id AND held = ANY(:reasons) ORDER BY id LIMIT :most
                     FOR UPDATE SKIP LOCKED)
        RETURNING id AS freed_id),
    due AS (
        UPDATE jobs SET run_at = now() FROM freed WHERE jobs.id = freed_id AND state = 'scheduled'),
    revived AS (
        UPDATE jobs SET {REVIVED}, max_attempts = greatest(max_attempts, attempt + {ATTEMPTS})
        FROM freed WHERE jobs.id = freed_id AND state = 'cancelled')
    SELECT count(*) FROM freed
""")  # noqa: S608 - composed of constants

# One statement for each partial index that knows jobs of this kind.
_GIVE_UP: Final = tuple(
    text(f"""
        WITH ended AS (
            UPDATE jobs SET state = 'cancelled', finished_at = now(), cancel_requested_at = now()
            WHERE id IN (SELECT id FROM jobs WHERE queue = :queue AND concurrency_key = :key AND {states}
                         LIMIT :most FOR UPDATE SKIP LOCKED)
            RETURNING id)
        UPDATE webhook_deliveries d SET held = :held, reason = :reason FROM ended WHERE d.id = ended.id
    """)  # noqa: S608 - composed of constants
    for states in (
        "state IN ('scheduled', 'retrying') AND waits_for = 0",
        "state = 'pending' AND NOT parked",
        "state = 'pending' AND parked",
    )
)


async def hold(connection: AsyncConnection, delivery_id: UUID, held: Held | None, reason: str) -> None:
    """Note what a delivery waits for, or why it has ended."""
    await connection.execute(_HOLD, {"id": delivery_id, "held": held, "reason": reason})


async def is_enabled(tx: Transaction, webhook_id: UUID) -> bool:
    """Tell whether a webhook is enabled by now; nobody switches it before the caller's transaction has ended.

    So what is given up in that transaction is there to be taken up when the webhook is enabled after it.
    """
    return bool((await tx.connection.execute(_IS_ENABLED, {"id": webhook_id})).scalar_one_or_none())


async def release(tx: Transaction, webhook_id: UUID, reasons: Sequence[Held] = WAITING) -> bool:
    """Let deliveries go that are held for one of these reasons; tell whether there may be more."""
    row = {"webhook_id": webhook_id, "reasons": [held.value for held in reasons], "most": PORTION}
    freed: int = (await tx.connection.execute(_RELEASE, row)).scalar_one()
    if freed:
        tx.bells.add(Bell.JOBS)
    return freed == PORTION


async def take_up(begin: Begin, webhook_id: UUID) -> None:
    """Let all deliveries go that were held or given up, after the webhook was enabled."""
    more = True
    while more:
        async with begin() as tx:
            more = await release(tx, webhook_id, tuple(Held))


async def give_up(begin: Begin, webhook_id: UUID, reason: str, *, held: Held | None = Held.DISABLED) -> None:
    """Cancel the deliveries of a webhook that no worker has in hand, after it was disabled or deleted.

    Where it was enabled again meanwhile, what is left goes on. A process that dies here leaves the rest to their own
    turn: each looks at its webhook first.
    """
    row = {"queue": QUEUE, "key": subscription_of(webhook_id), "held": held, "reason": reason, "most": PORTION}
    for statement in _GIVE_UP:
        ended = PORTION
        while ended == PORTION:
            async with begin() as tx:
                if await is_enabled(tx, webhook_id):
                    return
                ended = (await tx.connection.execute(statement, row)).rowcount


async def follow_switch(begin: Begin, webhook_id: UUID, *, enabled: bool, by: str) -> None:
    """Let the deliveries of a webhook follow its switch, portion by portion, after the switch is on record."""
    if enabled:
        await take_up(begin, webhook_id)
    else:
        await give_up(begin, webhook_id, f"the webhook is disabled: disabled by {by}")
