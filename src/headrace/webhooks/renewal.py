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
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.database.record import Record
from headrace.errors import ConfigurationError
from headrace.webhooks.secrets import SecretBox

logger = structlog.get_logger(__name__)

_FORGET: Final = text("UPDATE webhooks SET former_secret = NULL, former_until = NULL WHERE former_until <= now()")
_ALL: Final = text("SELECT id, secret, former_secret FROM webhooks ORDER BY id")
_RENEW: Final = text("UPDATE webhooks SET secret = :renewed WHERE id = :id AND secret = :sealed")
_RENEW_FORMER: Final = text("UPDATE webhooks SET former_secret = :renewed WHERE id = :id AND former_secret = :sealed")


async def renew_secrets(record: Record, box: SecretBox) -> int:
    """Write all secrets again that stand under an old key; return how many."""
    async with record.engine.begin() as connection:
        await connection.execute(_FORGET)
        found = (await connection.execute(_ALL)).all() if box.has_keys else []
    renewed = 0
    for webhook_id, secret, former in found:
        try:
            fresh, fresh_former = box.open(secret).renewed, former and box.open(former).renewed
        except ConfigurationError as error:
            logger.warning("secret_unreadable", webhook_id=str(webhook_id), reason=str(error))
            continue
        if fresh or fresh_former:
            async with record.engine.begin() as connection:
                await _write(connection, webhook_id, {secret: fresh}, {former: fresh_former})
            renewed += 1
    if renewed:
        logger.info("secrets_renewed", webhooks=renewed)
    return renewed


async def _write(
    connection: AsyncConnection, webhook_id: UUID, current: dict[str, str | None], former: dict[str, str | None]
) -> None:
    for statement, pairs in ((_RENEW, current), (_RENEW_FORMER, former)):
        for sealed, renewed in pairs.items():
            if renewed:
                await connection.execute(statement, {"id": webhook_id, "sealed": sealed, "renewed": renewed})
