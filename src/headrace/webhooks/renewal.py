"""Secrets on record follow the keys of the deployment.

Owns the second half of a change of keys: what stands on record under an old key is written again under the first one
of `HEADRACE_SECRET_KEYS`, and former secrets leave the record when they are not valid any more. A secret that was
changed meanwhile stays as it is. One that no key opens is left and told of, with the webhook's id: the old key has to
come back, or the webhook gets another secret. Never take a key off the setting before nothing is left to renew.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import text

from headrace.database.record import Record
from headrace.errors import ConfigurationError
from headrace.webhooks.secrets import SecretBox

logger = structlog.get_logger(__name__)

_FORGET: Final = text("DELETE FROM webhook_former_secrets WHERE valid_until <= now()")
_ALL: Final = text("""
    SELECT id, secret FROM webhooks UNION ALL SELECT webhook_id, secret FROM webhook_former_secrets ORDER BY id
""")
_RENEW: Final = (
    text("UPDATE webhooks SET secret = :renewed WHERE id = :id AND secret = :sealed"),
    text("UPDATE webhook_former_secrets SET secret = :renewed WHERE webhook_id = :id AND secret = :sealed"),
)
"""Both, wherever it stood: a rotation may have moved it meanwhile."""


async def renew_secrets(record: Record, box: SecretBox) -> int:
    """Write all secrets again that stand under an old key; return of how many webhooks."""
    async with record.engine.begin() as connection:
        await connection.execute(_FORGET)
        found = (await connection.execute(_ALL)).all() if box.has_keys else []
    renewed: set[UUID] = set()
    for webhook_id, sealed in found:
        try:
            fresh = box.open(sealed).renewed
        except ConfigurationError as error:
            logger.warning("secret_unreadable", webhook_id=str(webhook_id), reason=str(error))
            continue
        if fresh:
            async with record.engine.begin() as connection:
                for statement in _RENEW:
                    await connection.execute(statement, {"id": webhook_id, "sealed": sealed, "renewed": fresh})
            renewed.add(webhook_id)
    if renewed:
        logger.info("secrets_renewed", webhooks=len(renewed))
    return len(renewed)
