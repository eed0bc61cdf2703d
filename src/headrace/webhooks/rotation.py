"""A webhook gets another secret, and the former ones stay valid beside it for a day each.

Owns the rows of `webhook_former_secrets`, all encrypted. A rotation shortens the day of no earlier one: where too many
are still valid it is refused, and nothing has changed. Reads go by `VALID_FORMER`, which knows no secret whose day is
over; `renewal` takes those off the record. Never decrypt one here.
"""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import text

from headrace.errors import ConflictError, NotFoundError
from headrace.transaction import Transaction

VALID_HOURS: Final = 24
MOST_FORMER: Final = 5
"""Each is one more signature in the header of every call."""

VALID_FORMER: Final = """
    ARRAY(SELECT f.secret FROM webhook_former_secrets f
          WHERE f.webhook_id = w.id AND f.valid_until > now() ORDER BY f.id DESC) AS former_secrets
"""
"""The column of a query over `webhooks w`: the former secrets that are signed with, the latest first."""

_HOLD: Final = text("SELECT id FROM webhooks WHERE id = :id FOR UPDATE")

_VALID: Final = text("""
    SELECT count(*) AS many, min(valid_until) AS until FROM webhook_former_secrets
    WHERE webhook_id = :id AND valid_until > now()
""")

_KEEP: Final = text("""
    INSERT INTO webhook_former_secrets (webhook_id, secret, valid_until)
    SELECT id, secret, now() + make_interval(hours => :hours) FROM webhooks WHERE id = :id
""")

_REPLACE: Final = text("UPDATE webhooks SET secret = :secret, updated_at = now() WHERE id = :id")


async def rotate(tx: Transaction, webhook_id: UUID, *, sealed: str) -> None:
    """Give a webhook another secret; the former one is valid beside it for a day.

    Raises:
        NotFoundError: there is no such webhook.
        ConflictError: so many former secrets are still valid that another one has to wait.

    """
    webhook = {"id": webhook_id}
    if (await tx.connection.execute(_HOLD, webhook)).one_or_none() is None:
        message = f"there is no webhook {webhook_id}"
        raise NotFoundError(message)
    many, until = (await tx.connection.execute(_VALID, webhook)).one()
    if many >= MOST_FORMER:
        free = until.astimezone(UTC) + timedelta(seconds=1)
        message = (
            f"{many} former secrets of this webhook are valid; it can be rotated again at {free:%Y-%m-%dT%H:%M:%SZ}"
        )
        raise ConflictError(message)
    await tx.connection.execute(_KEEP, webhook | {"hours": VALID_HOURS})
    await tx.connection.execute(_REPLACE, webhook | {"secret": sealed})
