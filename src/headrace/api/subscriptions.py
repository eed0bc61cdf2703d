"""`/v1/subscriptions`: who listens, how far each is, and what holds it up.

Owns these routes. A pause is on record with the answer; within a second no consumer begins with another event of the
subscription, and it goes on later from where it was.
"""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, Router, get, post

from headrace.api.door import door_of
from headrace.api.idempotency import Answer, once
from headrace.api.paging import DEFAULT_LIMIT, Cursor, Limit, Page, page_of
from headrace.cursors import place_of
from headrace.events.listing import SubscriptionStatus, list_subscriptions, subscription_named
from headrace.subscribers.pausing import set_paused
from headrace.transaction import Transaction


@get("/v1/subscriptions", summary="List subscriptions")
async def find_subscriptions(
    request: Request[Any, Any, Any], limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[SubscriptionStatus]:
    """Return the subscriptions, by name."""
    found = await list_subscriptions(door_of(request).record, limit=limit + 1, after=place_of(cursor) or "")
    return page_of(found, limit, lambda one: one.name)


@get("/v1/subscriptions/{name:str}", summary="Get a subscription")
async def get_subscription(request: Request[Any, Any, Any], name: str) -> SubscriptionStatus:
    """Return a subscription, and how far it is on every lane."""
    async with door_of(request).record.engine.connect() as connection:
        return await subscription_named(connection, name)


@post("/v1/subscriptions/{name:str}/pause", status_code=200, summary="Pause a subscription")
async def pause(request: Request[Any, Any, Any], name: str) -> Response[SubscriptionStatus]:
    """Deliver no further events to a subscription; it keeps its place."""
    return await _set(request, name, paused=True)


@post("/v1/subscriptions/{name:str}/resume", status_code=200, summary="Resume a subscription")
async def resume(request: Request[Any, Any, Any], name: str) -> Response[SubscriptionStatus]:
    """Deliver events to a subscription again, from where it was."""
    return await _set(request, name, paused=False)


async def _set(request: Request[Any, Any, Any], name: str, *, paused: bool) -> Response[Any]:
    async def work(tx: Transaction) -> Answer:
        await set_paused(tx, name, paused=paused, by=request.user.name)
        return Answer(200, await subscription_named(tx.connection, name))

    return await once(request, work)


subscription_routes = Router(
    path="/",
    route_handlers=[find_subscriptions, get_subscription, pause, resume],
    tags=["Subscriptions"],
)
