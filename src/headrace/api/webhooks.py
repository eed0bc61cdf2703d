"""`/v1/webhooks`: other people's servers that are told of events.

Owns the routes that make, show, change and delete webhooks, give them another secret, and try one. A secret is in an
answer once, when it is made; a repeat under the same `Idempotency-Key` shows it again, and what is kept for that is
encrypted. A change counts for every event that is published after its answer.
"""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import UUID

import msgspec
from litestar import Request, Response, Router, delete, get, patch, post, put

from headrace.api.answers import json_answer
from headrace.api.door import door_of
from headrace.api.idempotency import Answer, Work, once
from headrace.api.paging import DEFAULT_LIMIT, Cursor, Limit, Page, page_of
from headrace.api.webhook_deliveries import delivery_routes
from headrace.cursors import id_of
from headrace.transaction import Transaction, transaction
from headrace.webhooks import book
from headrace.webhooks.holding import follow_switch, give_up
from headrace.webhooks.model import NewWebhook, Webhook, WebhookChanges, WebhookMade, WebhookTested
from headrace.webhooks.queries import list_webhooks, webhook_by_id
from headrace.webhooks.rotation import rotate
from headrace.webhooks.signing import new_secret
from headrace.webhooks.trying import send_test


@get("/v1/webhooks", summary="List webhooks")
async def find_webhooks(
    request: Request[Any, Any, Any], limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[Webhook]:
    """Return the webhooks, the newest first; never their secrets."""
    async with door_of(request).record.engine.connect() as connection:
        found = await list_webhooks(connection, limit=limit + 1, before=id_of(cursor))
    return page_of(found, limit, lambda webhook: str(webhook.id))


@post("/v1/webhooks", status_code=201, summary="Make a webhook")
async def make(request: Request[Any, Any, Any], data: NewWebhook) -> Response[WebhookMade]:
    """Make a webhook and show its secret, this once.

    A type must be declared; a pattern with `*` may meet what is declared later. A private, loopback or link-local
    address is refused.
    """
    caller = door_of(request).caller
    book.require_possible(data.types, _declared(request))
    await caller.check(data.url)
    sealed = caller.seal(new_secret())

    async def work(tx: Transaction) -> Answer:
        webhook_id = await book.make(tx, data, sealed=sealed, by=request.user.name)
        made = await _with_secret(tx, webhook_id, sealed)
        return Answer(201, made, {"Location": f"/v1/webhooks/{webhook_id}"})

    return await _shown_once(request, work)


@get("/v1/webhooks/{webhook_id:uuid}", summary="Get a webhook")
async def get_webhook(request: Request[Any, Any, Any], webhook_id: UUID) -> Webhook:
    """Return a webhook, and how its endpoint answers."""
    async with door_of(request).record.engine.connect() as connection:
        return await webhook_by_id(connection, webhook_id)


@patch("/v1/webhooks/{webhook_id:uuid}", summary="Change a webhook")
async def change(request: Request[Any, Any, Any], webhook_id: UUID, data: WebhookChanges) -> Response[Webhook]:
    """Change what is given.

    `"enabled": true` begins anew with the events from now on, and takes up the deliveries that were cancelled when it
    was disabled; `false` cancels those that wait.
    """
    return await _change(request, webhook_id, data)


@put("/v1/webhooks/{webhook_id:uuid}", summary="Replace a webhook")
async def replace(request: Request[Any, Any, Any], webhook_id: UUID, data: NewWebhook) -> Response[Webhook]:
    """Change everything but the secret: what is missing has its default again."""
    return await _change(request, webhook_id, WebhookChanges(**msgspec.structs.asdict(data)))


@delete("/v1/webhooks/{webhook_id:uuid}", summary="Delete a webhook")
async def remove(request: Request[Any, Any, Any], webhook_id: UUID) -> None:
    """Delete a webhook; its unfinished deliveries end as cancelled."""
    record = door_of(request).record
    async with transaction(record) as tx:
        await book.delete(tx, webhook_id)
    await give_up(partial(transaction, record), webhook_id, "the webhook was deleted", held=None)


@post("/v1/webhooks/{webhook_id:uuid}/rotate-secret", status_code=200, summary="Give a webhook another secret")
async def rotate_secret(request: Request[Any, Any, Any], webhook_id: UUID) -> Response[WebhookMade]:
    """Make another secret and show it, this once; for 24 hours deliveries are signed with the former one too.

    Each former secret has its own 24 hours. Where five are valid, another rotation is 409 and says until when.
    """
    sealed = door_of(request).caller.seal(new_secret())

    async def work(tx: Transaction) -> Answer:
        await rotate(tx, webhook_id, sealed=sealed)
        return Answer(200, await _with_secret(tx, webhook_id, sealed))

    return await _shown_once(request, work)


@post("/v1/webhooks/{webhook_id:uuid}/test", status_code=200, summary="Try a webhook")
async def test(request: Request[Any, Any, Any], webhook_id: UUID) -> WebhookTested:
    """Send a signed test event at once, also where the webhook is disabled, and return what was answered."""
    return await send_test(door_of(request).record, door_of(request).caller, webhook_id)


async def _change(request: Request[Any, Any, Any], webhook_id: UUID, data: WebhookChanges) -> Response[Any]:
    if not isinstance(data.types, msgspec.UnsetType):
        book.require_possible(data.types, _declared(request))
    if not isinstance(data.url, msgspec.UnsetType):
        await door_of(request).caller.check(data.url)
    switched: list[bool] = []

    async def work(tx: Transaction) -> Answer:
        enabled = await book.change(tx, webhook_id, data, by=request.user.name)
        switched[:] = [] if enabled is None else [enabled]
        return Answer(200, await webhook_by_id(tx.connection, webhook_id))

    answer = await once(request, work)
    for enabled in switched:
        begin = partial(transaction, door_of(request).record)
        await follow_switch(begin, webhook_id, enabled=enabled, by=request.user.name)
    return answer


async def _with_secret(tx: Transaction, webhook_id: UUID, sealed: str) -> WebhookMade:
    webhook = await webhook_by_id(tx.connection, webhook_id)
    return WebhookMade(**msgspec.structs.asdict(webhook), secret=sealed)


async def _shown_once(request: Request[Any, Any, Any], work: Work) -> Response[Any]:
    """Answer with the secret in clear, where what is kept for a repeat of the request has it encrypted."""
    answer = await once(request, work)
    made = msgspec.json.decode(answer.content, type=WebhookMade)
    shown = msgspec.structs.replace(made, secret=door_of(request).caller.reveal(made.secret))
    return json_answer(shown, status=answer.status_code or 200, headers=answer.headers)


def _declared(request: Request[Any, Any, Any]) -> frozenset[str]:
    return frozenset(door_of(request).registry.events)


webhook_routes = Router(
    path="/",
    route_handlers=[
        find_webhooks,
        make,
        get_webhook,
        change,
        replace,
        remove,
        rotate_secret,
        test,
        *delivery_routes,
    ],
    tags=["Webhooks"],
)
