"""What the record says about webhooks and their deliveries.

Owns the read side. Reads never lock, and no secret is read here but for a call (`sealed_secrets`).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import NotFoundError
from headrace.jobs.limits import Rate
from headrace.webhooks.model import (
    Circuit,
    CircuitState,
    DeliveryState,
    Webhook,
    WebhookAttempt,
    WebhookDelivery,
    subscription_of,
)
from headrace.webhooks.rotation import VALID_FORMER

_WEBHOOK: Final = """
    SELECT id, url, types, description, enabled, rate_limit, rate_per_seconds,
           coalesce(CAST(filter AS text), 'null') AS filter, created_at, updated_at, disabled_at, disabled_reason,
           (SELECT max(f.valid_until) FROM webhook_former_secrets f
            WHERE f.webhook_id = webhooks.id AND f.valid_until > now()) AS former_until,
           failures, failing_since, circuit_until, circuit_until > now() AS is_open
    FROM webhooks
"""
_ONE: Final = text(_WEBHOOK + "WHERE id = :id")
_PAGE: Final = text(
    _WEBHOOK + "WHERE CAST(:before AS uuid) IS NULL OR id < CAST(:before AS uuid) ORDER BY id DESC LIMIT :limit"
)

_SECRETS: Final = text(f"SELECT url, secret, {VALID_FORMER} FROM webhooks w WHERE id = :id")  # noqa: S608 - constants

# A job that has left the record had ended: the log says how.
_STATE: Final = """
    CASE WHEN j.state = 'succeeded' THEN 'handled' WHEN j.state = 'dead' THEN 'dead'
         WHEN j.state IN ('cancelled', 'expired') THEN 'cancelled'
         WHEN j.state IS NULL THEN CASE WHEN a.at IS NULL OR a.error IS NOT NULL THEN 'cancelled' ELSE 'handled' END
         WHEN a.at IS NULL THEN 'pending' ELSE 'retrying' END
"""

_DELIVERY: Final = f"""
    SELECT d.id, d.webhook_id, d.event_id, e.type, {_STATE} AS state, coalesce(j.attempt, a.attempt, 0) AS attempts,
           CASE WHEN d.held IS NOT NULL OR j.state = 'cancelled' THEN d.reason END AS reason,
           a.status, a.error, a.response, a.seconds, a.at,
           CASE WHEN j.state IN ('scheduled', 'pending', 'retrying') THEN j.run_at END AS next_attempt_at,
           d.created_at, j.finished_at, j.trace_id, d.replay_id, d.resend_of
    FROM webhook_deliveries d
    LEFT JOIN jobs j ON j.id = d.id
    LEFT JOIN event_log e ON e.id = d.event_id
    LEFT JOIN LATERAL (SELECT * FROM webhook_attempts w WHERE w.delivery_id = d.id ORDER BY w.fence DESC LIMIT 1) AS a
        ON true
"""  # noqa: S608 - composed of constants
_DELIVERIES: Final = text(f"""
    {_DELIVERY} WHERE d.webhook_id = :webhook_id
    AND (CAST(:before AS uuid) IS NULL OR d.id < CAST(:before AS uuid))
    AND (CAST(:state AS text) IS NULL OR {_STATE} = :state) ORDER BY d.id DESC LIMIT :limit
""")
# The dead may be few among very many: an index of their own finds a page. Each has its delivery for as long as its job.
_DEAD: Final = text(f"""
    {_DELIVERY} WHERE d.webhook_id = :webhook_id AND j.state = 'dead' AND d.id = ANY(ARRAY(
        SELECT job_id FROM dead_deliveries WHERE subscription = :subscription
        AND (CAST(:before AS uuid) IS NULL OR job_id < CAST(:before AS uuid)) ORDER BY job_id DESC LIMIT :limit))
    ORDER BY d.id DESC
""")  # noqa: S608 - composed of constants
_ONE_DELIVERY: Final = text(f"{_DELIVERY} WHERE d.id = :id")

_ATTEMPTS: Final = text("""
    SELECT attempt, at, status, error, response, seconds, trace_id FROM webhook_attempts
    WHERE delivery_id = :id ORDER BY fence
""")


class Sealed(NamedTuple):
    """Where a webhook is called, and its encrypted secrets, the latest one first."""

    url: str
    secrets: tuple[str, ...]


async def webhook_by_id(connection: AsyncConnection, webhook_id: UUID) -> Webhook:
    """Return a webhook.

    Raises:
        NotFoundError: there is none with this id.

    """
    return _webhook(_found((await connection.execute(_ONE, {"id": webhook_id})).one_or_none(), "webhook", webhook_id))


async def list_webhooks(connection: AsyncConnection, *, limit: int, before: UUID | None = None) -> list[Webhook]:
    """Return a page of webhooks, the newest first."""
    rows = await connection.execute(_PAGE, {"limit": limit, "before": before})
    return [_webhook(row) for row in rows]


async def sealed_secrets(connection: AsyncConnection, webhook_id: UUID) -> Sealed:
    """Return what a call of a webhook needs.

    Raises:
        NotFoundError: there is none with this id.

    """
    row = _found((await connection.execute(_SECRETS, {"id": webhook_id})).one_or_none(), "webhook", webhook_id)
    return Sealed(row.url, (row.secret, *row.former_secrets))


async def list_deliveries(
    connection: AsyncConnection,
    webhook_id: UUID,
    *,
    limit: int,
    before: UUID | None = None,
    state: DeliveryState | None = None,
) -> list[WebhookDelivery]:
    """Return a page of a webhook's deliveries, the newest first, those in one state where it is named."""
    given = {"webhook_id": webhook_id, "limit": limit, "before": before}
    if state is DeliveryState.DEAD:
        rows = await connection.execute(_DEAD, given | {"subscription": subscription_of(webhook_id)})
    else:
        rows = await connection.execute(_DELIVERIES, given | {"state": state})
    return [_delivery(row) for row in rows]


async def delivery_by_id(connection: AsyncConnection, delivery_id: UUID) -> WebhookDelivery:
    """Return a delivery.

    Raises:
        NotFoundError: there is none with this id.

    """
    found = (await connection.execute(_ONE_DELIVERY, {"id": delivery_id})).one_or_none()
    return _delivery(_found(found, "delivery", delivery_id))


async def attempts_of(connection: AsyncConnection, delivery_id: UUID) -> list[WebhookAttempt]:
    """Return the calls of a delivery, the first one first."""
    rows = await connection.execute(_ATTEMPTS, {"id": delivery_id})
    return [
        WebhookAttempt(
            attempt=row.attempt,
            at=row.at,
            status=row.status,
            error=row.error,
            response=row.response,
            duration_seconds=row.seconds,
            trace_id=row.trace_id,
        )
        for row in rows
    ]


def _found(row: Row[Any] | None, what: str, identity: UUID) -> Row[Any]:
    if row is None:
        message = f"there is no {what} {identity}"
        raise NotFoundError(message)
    return row


def _webhook(row: Row[Any]) -> Webhook:
    return Webhook(
        id=row.id,
        url=row.url,
        types=row.types,
        description=row.description,
        enabled=row.enabled,
        rate=None if row.rate_limit is None else Rate(row.rate_limit, row.rate_per_seconds),
        filter=msgspec.Raw(row.filter.encode()),
        created_at=row.created_at,
        updated_at=row.updated_at,
        disabled_at=row.disabled_at,
        disabled_reason=row.disabled_reason,
        former_secret_until=row.former_until,
        circuit=Circuit(_circuit(row), row.failures, row.failing_since, row.circuit_until),
        subscription=subscription_of(row.id),
    )


def _circuit(row: Row[Any]) -> CircuitState:
    if row.circuit_until is None:
        return CircuitState.CLOSED
    return CircuitState.OPEN if row.is_open else CircuitState.HALF_OPEN


def _delivery(row: Row[Any]) -> WebhookDelivery:
    return WebhookDelivery(
        id=row.id,
        webhook_id=row.webhook_id,
        event_id=row.event_id,
        type=row.type,
        state=DeliveryState(row.state),
        attempts=row.attempts,
        reason=row.reason,
        last_status=row.status,
        last_error=row.error,
        last_response=row.response,
        last_duration_seconds=row.seconds,
        last_attempt_at=row.at,
        next_attempt_at=row.next_attempt_at,
        created_at=row.created_at,
        finished_at=row.finished_at,
        trace_id=row.trace_id,
        replay_id=row.replay_id,
        resend_of=row.resend_of,
    )
