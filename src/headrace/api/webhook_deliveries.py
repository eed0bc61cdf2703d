"""`/v1/webhooks/{id}/deliveries`: what was sent to a webhook, what it answered, and what is to be sent again.

Owns these routes. A delivery is a job of the same id; what each call came to is kept beside it.
"""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from headrace.api.door import door_of
from headrace.api.idempotency import Answer, once
from headrace.api.paging import DEFAULT_LIMIT, Cursor, Limit, Page, page_of
from headrace.cursors import id_of
from headrace.errors import NotFoundError
from headrace.transaction import Transaction
from headrace.webhooks.deliveries import send_again
from headrace.webhooks.model import DeliveryState, WebhookAttempt, WebhookDelivery
from headrace.webhooks.queries import attempts_of, delivery_by_id, list_deliveries, webhook_by_id

InState = Annotated[DeliveryState | None, QueryParameter(name="state", description="those in this state")]


class WebhookDeliveryWithLog(WebhookDelivery, frozen=True, kw_only=True):
    """A delivery and all of its calls."""

    log: list[WebhookAttempt]


@get("/v1/webhooks/{webhook_id:uuid}/deliveries", summary="List the deliveries of a webhook")
async def find_deliveries(
    request: Request[Any, Any, Any],
    webhook_id: UUID,
    in_state: InState = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[WebhookDelivery]:
    """Return the deliveries of a webhook, the newest first, each with what its last call came to."""
    async with door_of(request).record.engine.connect() as connection:
        await webhook_by_id(connection, webhook_id)
        found = await list_deliveries(connection, webhook_id, limit=limit + 1, before=id_of(cursor), state=in_state)
    return page_of(found, limit, lambda delivery: str(delivery.id))


@get("/v1/webhooks/{webhook_id:uuid}/deliveries/{delivery_id:uuid}", summary="Get a delivery of a webhook")
async def get_delivery(request: Request[Any, Any, Any], webhook_id: UUID, delivery_id: UUID) -> WebhookDeliveryWithLog:
    """Return a delivery and every call that was made for it."""
    async with door_of(request).record.engine.connect() as connection:
        delivery = await delivery_by_id(connection, delivery_id)
        if delivery.webhook_id != webhook_id:
            message = f"there is no delivery {delivery_id} of this webhook"
            raise NotFoundError(message)
        log = await attempts_of(connection, delivery_id)
    return WebhookDeliveryWithLog(**msgspec.structs.asdict(delivery), log=log)


@post(
    "/v1/webhooks/{webhook_id:uuid}/deliveries/{delivery_id:uuid}/resend",
    status_code=202,
    summary="Send a delivery again",
)
async def resend(request: Request[Any, Any, Any], webhook_id: UUID, delivery_id: UUID) -> Response[WebhookDelivery]:
    """Send a delivery again, now, with the same `webhook-id`.

    One that waits for its next attempt is brought forward; one that has ended is made anew.
    """
    return await _resend(request, delivery_id, of=webhook_id)


@post("/v1/webhooks/deliveries/{delivery_id:uuid}/resend", status_code=202, summary="Send a delivery again, by its id")
async def resend_by_id(request: Request[Any, Any, Any], delivery_id: UUID) -> Response[WebhookDelivery]:
    """Send a delivery again, now, of whichever webhook it is."""
    return await _resend(request, delivery_id, of=None)


async def _resend(request: Request[Any, Any, Any], delivery_id: UUID, *, of: UUID | None) -> Response[Any]:
    async def work(tx: Transaction) -> Answer:
        sent = await send_again(tx, delivery_id, of=of)
        return Answer(202, await delivery_by_id(tx.connection, sent))

    return await once(request, work)


delivery_routes: Final[list[HTTPRouteHandler]] = [find_deliveries, get_delivery, resend, resend_by_id]
