"""The test event: sent at once to one webhook, signed as every delivery is.

Owns the event `headrace.webhook.test`, which is on no record: no other webhook is sent it, and it is no delivery. The
webhook may be disabled: it is tested before it is enabled again.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

import msgspec

from headrace.clock import new_id, now
from headrace.database.record import Record
from headrace.errors import ConfigurationError, UnavailableError
from headrace.webhooks.body import Fact, body_of
from headrace.webhooks.calling import Caller, Message
from headrace.webhooks.model import WebhookTested
from headrace.webhooks.queries import sealed_secrets

TYPE: Final = "headrace.webhook.test"
_SOURCE: Final = "/headrace"


async def send_test(record: Record, caller: Caller, webhook_id: UUID) -> WebhookTested:
    """Call a webhook with a test event and return what it answered.

    Raises:
        NotFoundError: there is no such webhook.
        UnavailableError: this process has no key for its secret.

    """
    async with record.engine.connect() as connection:
        url, secrets = await sealed_secrets(connection, webhook_id)
    message_id = new_id()
    data = msgspec.json.encode({"webhook_id": webhook_id, "message": "If you can read this, it works."}).decode()
    event = Fact(source_id=str(message_id), source=_SOURCE, type=TYPE, subject=str(webhook_id), time=now(), data=data)
    try:
        called = await caller.call(Message(url=url, secrets=secrets, id=str(message_id), body=body_of(event)))
    except ConfigurationError as error:
        raise UnavailableError(str(error), retry_after_seconds=60) from error
    return WebhookTested(
        ok=called.is_taken,
        status=called.status,
        error=called.error,
        response=called.response,
        duration_seconds=called.seconds,
        message_id=message_id,
    )
