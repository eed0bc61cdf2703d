"""Forgetting: a subscription that no code has any more leaves the record.

Owns its removal, with its checkpoints and leases, so that it holds no lane and no day of the log any longer. It is
refused while a live process runs it: that one would only put it back, at the present, with what it missed lost. What of
it had failed stays as jobs. Should code bring the name back, it begins anew at the present. Never forget a webhook from
here: those have a road of their own.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import text

from headrace.errors import ConflictError, NotFoundError
from headrace.transaction import Transaction

_KIND: Final = text("SELECT kind FROM subscriptions WHERE name = :name FOR UPDATE")
_RUNS_IN: Final = text("""
    SELECT host || ', process ' || pid FROM processes
    WHERE role = 'consume' AND :name = ANY(tasks) AND expires_at > now() ORDER BY started_at LIMIT 1
""")
_PASSED: Final = text("""
    SELECT coalesce(sum(l.head - c.position), 0) FROM checkpoints AS c JOIN lanes AS l ON l.lane = c.lane
    WHERE c.subscription = :name
""")
_FORGET: Final = text("DELETE FROM subscriptions WHERE name = :name")
_LEASES: Final = text("DELETE FROM leases WHERE name ^@ :prefix")


async def forget(tx: Transaction, subscription: str) -> int:
    """Take a subscription off the record; return how many events it had yet to pass.

    Raises:
        NotFoundError: there is no such subscription.
        ConflictError: a live process runs it, or it is a webhook.

    """
    kind = (await tx.connection.execute(_KIND, {"name": subscription})).scalar_one_or_none()
    if kind is None:
        message = f"there is no subscription {subscription}"
        raise NotFoundError(message)
    if kind == "webhook":
        message = f"{subscription} is a webhook: delete it as one"
        raise ConflictError(message)
    runs_in = (await tx.connection.execute(_RUNS_IN, {"name": subscription})).scalar_one_or_none()
    if runs_in is not None:
        message = f"{subscription} is run by {runs_in}: take it out of the code, or end that process, first"
        raise ConflictError(message)
    passed: int = int((await tx.connection.execute(_PASSED, {"name": subscription})).scalar_one())
    await tx.connection.execute(_LEASES, {"prefix": f"sub:{subscription}:"})
    await tx.connection.execute(_FORGET, {"name": subscription})
    return passed
