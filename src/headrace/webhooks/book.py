"""The book of webhooks: made, changed, disabled, deleted.

Owns the rows of `webhooks`, and with each the row of `subscriptions` under which the rest of Headrace knows it. A
webhook begins at the heads of the lanes at the moment it is enabled: the rows of the fan-out's checkpoint are held
meanwhile, so that each event lies clearly before or after. Secrets come here encrypted. Never deliver from here.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn
from uuid import UUID

import msgspec
import structlog
from sqlalchemy import text

from headrace.clock import new_id
from headrace.database.record import Bell
from headrace.errors import FieldError, InvalidInputError, NotFoundError
from headrace.events.filters import Filter
from headrace.events.patterns import checked
from headrace.transaction import Transaction
from headrace.webhooks.model import AT_ONCE, FAN_OUT, QUEUE, NewWebhook, WebhookChanges, subscription_of

logger = structlog.get_logger(__name__)

_HOLD_FAN_OUT: Final = text("SELECT lane FROM checkpoints WHERE subscription = :name ORDER BY lane FOR SHARE")

_QUEUE: Final = text("""
    INSERT INTO queues (name, per_key_concurrency) VALUES (:name, :at_once)
    ON CONFLICT (name) DO UPDATE SET per_key_concurrency = :at_once WHERE queues.per_key_concurrency IS NULL
""")

_HEADS: Final = "(SELECT coalesce(jsonb_object_agg(lane, head), '{}') FROM lanes)"

_MAKE: Final = text(f"""
    INSERT INTO webhooks (id, url, types, filter, description, enabled, disabled_at, disabled_reason,
                          rate_limit, rate_per_seconds, secret, begins)
    VALUES (:id, :url, :types, CAST(:filter AS jsonb), :description, :enabled,
            CASE WHEN NOT :enabled THEN now() END, CASE WHEN NOT :enabled THEN CAST(:reason AS text) END,
            :rate_limit, :rate_per_seconds, :secret, {_HEADS})
""")  # noqa: S608 - composed of constants

_SUBSCRIBE: Final = text("""
    INSERT INTO subscriptions (name, kind, types, filter) VALUES (:name, 'webhook', :types, CAST(:filter AS jsonb))
    ON CONFLICT (name) DO UPDATE SET types = excluded.types, filter = excluded.filter
""")

# A rate that changes gives its starts away anew.
_CHANGE: Final = text("""
    UPDATE webhooks SET url = :url, types = :types, filter = CAST(:filter AS jsonb), description = :description,
        rate_limit = :rate_limit, rate_per_seconds = :rate_per_seconds,
        slot_at = CASE WHEN (rate_limit, rate_per_seconds) IS NOT DISTINCT FROM
                            (CAST(:rate_limit AS integer), CAST(:rate_per_seconds AS float8)) THEN slot_at END,
        updated_at = now()
    WHERE id = :id
""")

_ENABLE: Final = text(f"""
    UPDATE webhooks SET enabled = true, disabled_at = NULL, disabled_reason = NULL, begins = {_HEADS},
        failures = 0, failing_since = NULL, circuit_until = NULL, circuit_seconds = 0, probing_until = NULL,
        waker_until = NULL, slot_at = NULL, updated_at = now()
    WHERE id = :id AND NOT enabled RETURNING id
""")  # noqa: S608 - composed of constants

_DISABLE: Final = text("""
    UPDATE webhooks SET enabled = false, disabled_at = now(), disabled_reason = :reason, updated_at = now()
    WHERE id = :id AND enabled RETURNING id
""")

_CURRENT: Final = text("""
    SELECT url, types, description, enabled, rate_limit, rate_per_seconds, CAST(filter AS text) AS filter
    FROM webhooks WHERE id = :id FOR UPDATE
""")

_DELETE: Final = text("DELETE FROM webhooks WHERE id = :id RETURNING id")
_FORGET: Final = text("DELETE FROM deliveries WHERE listener = :name")
_UNSUBSCRIBE: Final = text("DELETE FROM subscriptions WHERE name = :name AND kind = 'webhook'")


async def make(tx: Transaction, wanted: NewWebhook, *, sealed: str, by: str) -> UUID:
    """Put a webhook on record, with its encrypted secret; return its id.

    Raises:
        InvalidInputError: a pattern or the filter is malformed.

    """
    webhook_id = new_id()
    await tx.connection.execute(_QUEUE, {"name": QUEUE, "at_once": AT_ONCE})
    await tx.connection.execute(_HOLD_FAN_OUT, {"name": FAN_OUT})
    row = _row(webhook_id, wanted)
    await tx.connection.execute(
        _MAKE, row | {"secret": sealed, "enabled": wanted.enabled, "reason": f"made disabled by {by}"}
    )
    await _subscribe(tx, webhook_id, row)
    return webhook_id


async def change(tx: Transaction, webhook_id: UUID, changes: WebhookChanges, *, by: str) -> bool | None:
    """Change a webhook; return whether that has enabled it (True) or disabled it (False), None where neither.

    Raises:
        NotFoundError: there is no such webhook.
        InvalidInputError: a pattern or the filter is malformed.

    """
    now = await _current(tx, webhook_id)
    given = {name: value for name, value in msgspec.structs.asdict(changes).items() if value is not msgspec.UNSET}
    wanted = msgspec.structs.replace(now, **given)
    row = _row(webhook_id, wanted)
    await tx.connection.execute(_CHANGE, row)
    await _subscribe(tx, webhook_id, row)
    if wanted.enabled == now.enabled:
        return None
    if wanted.enabled:
        await tx.connection.execute(_HOLD_FAN_OUT, {"name": FAN_OUT})
        await tx.connection.execute(_ENABLE, {"id": webhook_id})
        tx.bells.add(Bell.JOBS)
    else:
        await disable(tx, webhook_id, f"disabled by {by}")
    return wanted.enabled


async def disable(tx: Transaction, webhook_id: UUID, reason: str) -> bool:
    """Disable a webhook and say why; tell whether it was enabled."""
    row = {"id": webhook_id, "reason": reason}
    if (await tx.connection.execute(_DISABLE, row)).one_or_none() is None:
        return False
    logger.warning("webhook_disabled", webhook_id=str(webhook_id), reason=reason)
    return True


async def delete(tx: Transaction, webhook_id: UUID) -> None:
    """Take a webhook off the record; its deliveries stay as history.

    Raises:
        NotFoundError: there is no such webhook.

    """
    if (await tx.connection.execute(_DELETE, {"id": webhook_id})).one_or_none() is None:
        _refuse(webhook_id)
    name = {"name": subscription_of(webhook_id)}
    await tx.connection.execute(_UNSUBSCRIBE, name)
    await tx.connection.execute(_FORGET, name)


async def _current(tx: Transaction, webhook_id: UUID) -> NewWebhook:
    row = (await tx.connection.execute(_CURRENT, {"id": webhook_id})).one_or_none()
    if row is None:
        _refuse(webhook_id)
    rate = None if row.rate_limit is None else {"limit": row.rate_limit, "per_seconds": row.rate_per_seconds}
    return msgspec.convert(
        {
            "url": row.url,
            "types": row.types,
            "description": row.description,
            "enabled": row.enabled,
            "rate": rate,
            "filter": None if row.filter is None else msgspec.json.decode(row.filter),
        },
        NewWebhook,
    )


async def _subscribe(tx: Transaction, webhook_id: UUID, row: dict[str, Any]) -> None:
    named = {"name": subscription_of(webhook_id), "types": row["types"], "filter": row["filter"]}
    await tx.connection.execute(_SUBSCRIBE, named)


def _row(webhook_id: UUID, wanted: NewWebhook) -> dict[str, Any]:
    for place, pattern in enumerate(wanted.types):
        checked(pattern, field=f"types.{place}")
    once_each = list(dict.fromkeys(wanted.types))
    return {
        "id": webhook_id,
        "url": wanted.url,
        "types": once_each,
        "description": wanted.description,
        "filter": None if wanted.filter is None else Filter.of(wanted.filter).written,
        "rate_limit": wanted.rate and wanted.rate.limit,
        "rate_per_seconds": wanted.rate and wanted.rate.per_seconds,
    }


def require_possible(types: list[str], declared: frozenset[str]) -> None:
    """Refuse a type that nobody declares; a pattern may meet what is declared later, and is taken.

    Raises:
        InvalidInputError: naming each such type.

    """
    wrong = tuple(
        FieldError(f"types.{place}", f"no application declares the event type {name}")
        for place, name in enumerate(types)
        if "*" not in name and name not in declared
    )
    if wrong:
        raise InvalidInputError("; ".join(error.message for error in wrong), wrong)


def _refuse(webhook_id: UUID) -> NoReturn:
    message = f"there is no webhook {webhook_id}"
    raise NotFoundError(message)
