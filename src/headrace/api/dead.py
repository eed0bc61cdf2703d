"""`/v1/subscriptions/{name}/dead` and `/redrive`: what nobody tries again by itself, and how it is tried again.

Owns these routes. Dead deliveries are shown in groups of one fingerprint and release; a redrive is answered with 202
when its job is on record, and ends with it. The subscription `webhook:<id>` has dead deliveries too.
"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, Response, Router, get, post
from litestar.params import QueryParameter

from headrace.api.door import door_of
from headrace.api.idempotency import Answer, once
from headrace.api.paging import DEFAULT_LIMIT, Cursor, Limit, Page, page_of
from headrace.cursors import id_of
from headrace.subscribers.dead import DeadDelivery, DeadGroup, Kind, dead_deliveries, dead_groups
from headrace.subscribers.redrive import FASTEST, Asked, Redriven, Selection, start_redrive
from headrace.transaction import Transaction

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_Release = Annotated[str | None, QueryParameter(description="only those that died under this version of the code")]


class RedriveRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which dead deliveries are tried again: those that meet every given condition; all where there is none."""

    fingerprint: _Text | None = None
    release: _Text | None = None
    event_id: UUID | None = None
    types: Annotated[
        Annotated[list[_Text], msgspec.Meta(min_length=1, max_length=100)] | None,
        msgspec.Meta(description="event types, or patterns"),
    ] = None
    canary: Annotated[bool, msgspec.Meta(description="one goes first, the rest when that one has succeeded")] = False
    rate_per_second: Annotated[
        Annotated[float, msgspec.Meta(gt=0, le=FASTEST)] | None,
        msgspec.Meta(description="how many begin in a second at most"),
    ] = None
    dry_run: Annotated[bool, msgspec.Meta(description="only count")] = False


@get("/v1/subscriptions/{name:str}/dead", summary="List dead deliveries in groups")
async def find_groups(
    request: Request[Any, Any, Any], name: str, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[DeadGroup]:
    """Return what went wrong with deliveries of a subscription, by fingerprint and release, the latest first."""
    async with door_of(request).record.engine.connect() as connection:
        found = await dead_groups(connection, name, limit=limit + 1, cursor=cursor)
    return page_of(found, limit, lambda group: group.place)


@get("/v1/subscriptions/{name:str}/dead/{fingerprint:str}", summary="List dead deliveries of one fingerprint")
async def find_deliveries(  # noqa: PLR0913, PLR0917 - one argument for each part of the question
    request: Request[Any, Any, Any],
    name: str,
    fingerprint: str,
    release: _Release = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[DeadDelivery]:
    """Return the dead deliveries of one fingerprint, those that failed first last."""
    async with door_of(request).record.engine.connect() as connection:
        found = await dead_deliveries(
            connection, name, Kind(fingerprint, release), limit=limit + 1, before=id_of(cursor)
        )
    return page_of(found, limit, lambda delivery: str(delivery.job_id))


@post("/v1/subscriptions/{name:str}/redrive", status_code=202, summary="Try dead deliveries again")
async def redrive(request: Request[Any, Any, Any], name: str, data: RedriveRequest | None = None) -> Response[Redriven]:
    """Begin a job that makes dead deliveries pending again, and return how many there are now.

    It can be watched and cancelled as any job. Where nothing is dead, or for a dry run, `job_id` is null. The body may
    be missing.
    """
    wanted = data or RedriveRequest()
    selection = Selection(
        fingerprint=wanted.fingerprint,
        release=wanted.release,
        event_id=wanted.event_id,
        types=None if wanted.types is None else tuple(wanted.types),
        canary=wanted.canary,
        rate_per_second=wanted.rate_per_second,
    )

    async def work(tx: Transaction) -> Answer:
        return Answer(202, await start_redrive(tx, Asked(name, selection, dry_run=wanted.dry_run)))

    return await once(request, work)


dead_routes = Router(path="/", route_handlers=[find_groups, find_deliveries, redrive], tags=["Subscriptions"])
