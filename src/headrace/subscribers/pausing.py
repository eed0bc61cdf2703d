"""Pausing: a subscription rests, and keeps its place.

Owns the switch on record, with who turned it and when. Every consumer looks at it twice a second: it takes up nothing
more, finishes what it has begun, and gives its lanes back. Checkpoints stand meanwhile, so nothing is lost, and
trimming waits for them; a webhook's deliveries wait as jobs, and go on with the resume. To pause what is paused changes
nothing, not even who did it.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import text

from headrace.errors import NotFoundError
from headrace.transaction import Transaction
from headrace.webhooks.holding import release
from headrace.webhooks.model import Held, webhook_of

_PAUSE: Final = text("""
    UPDATE subscriptions SET
        paused = :paused,
        paused_at = CASE WHEN :paused THEN CASE WHEN paused THEN paused_at ELSE now() END END,
        paused_by = CASE WHEN :paused THEN CASE WHEN paused THEN paused_by ELSE :by END END
    WHERE name = :name
    RETURNING name
""")


async def set_paused(tx: Transaction, subscription: str, *, paused: bool, by: str | None = None) -> None:
    """Pause a subscription, or let it go on; `by` says who pauses it, for the record.

    Raises:
        NotFoundError: there is no such subscription.

    """
    row = {"name": subscription, "paused": paused, "by": by}
    if (await tx.connection.execute(_PAUSE, row)).one_or_none() is None:
        message = f"there is no subscription {subscription}"
        raise NotFoundError(message)
    webhook_id = webhook_of(subscription)
    if webhook_id is not None and not paused:
        await release(tx, webhook_id, (Held.PAUSED,))
