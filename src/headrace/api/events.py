"""`/v1/events`: publish events, and see who has handled them.

Owns these routes. An event is answered with 202 when it is on record with every subscription's claim to it; `ids` are
the record's ids. Events are shown as CloudEvents, with the producer's id, and can be asked for by either id.
"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, Response, Router, get, post
from litestar.params import QueryParameter

from headrace.api.cloudevents import events_of
from headrace.api.door import door_of
from headrace.api.idempotency import Answer, once
from headrace.api.moments import Moment, moment_of
from headrace.api.paging import DEFAULT_LIMIT, Cursor, Limit, Page, page_of
from headrace.cursors import id_of
from headrace.events.intake import publish_from_outside
from headrace.events.queries import DeliveryStatus, EventFilter, deliveries_of, find_event, list_events
from headrace.events.reading import Reading
from headrace.events.replayed import ReplayStatus, replays_of
from headrace.events.showing import EventShown, shown
from headrace.transaction import Transaction

BATCH_BYTES = 16 * 1024 * 1024
_TypePattern = Annotated[str | None, QueryParameter(name="type", description="a type, or a pattern such as `orders.*`")]


class EventIds(msgspec.Struct, frozen=True):
    """The record's ids of published events, in the order of the request."""

    ids: list[UUID]


class EventWithDeliveries(EventShown, frozen=True, kw_only=True):
    """An event and how it stands with each subscription."""

    deliveries: list[DeliveryStatus]
    replays: list[ReplayStatus]
    """How it stands in the replays that have given it again, apart from its live deliveries."""


@post("/v1/events", status_code=202, request_max_body_size=BATCH_BYTES, summary="Publish one or many events")
async def publish(request: Request[Any, Any, Any]) -> Response[EventIds]:
    """Publish a CloudEvent (`application/cloudevents+json`) or a batch (`application/cloudevents-batch+json`)."""
    events = events_of(await request.body(), request.content_type[0], door_of(request).registry.events)

    async def work(tx: Transaction) -> Answer:
        return Answer(202, EventIds(await publish_from_outside(tx, events)))

    return await once(request, work)


@get("/v1/events", summary="List events")
async def find_events(  # noqa: PLR0913, PLR0917 - one argument for each filter of the contract
    request: Request[Any, Any, Any],
    event_type: _TypePattern = None,
    subject: str | None = None,
    from_time: Moment = None,
    trace_id: str | None = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Response[Page[EventShown]]:
    """Return events that meet every given condition, newest first."""
    chosen = EventFilter(
        type=event_type, subject=subject, from_time=moment_of(from_time, "from_time"), trace_id=trace_id
    )
    found = await list_events(door_of(request).record, chosen, limit=limit + 1, before=id_of(cursor))
    page = page_of(found, limit, lambda event: str(event.id))
    return _json({"items": [shown(event) for event in page.items], "next_cursor": page.next_cursor})


@get("/v1/events/{event_id:str}", summary="Get an event")
async def get_event(request: Request[Any, Any, Any], event_id: str) -> Response[EventWithDeliveries]:
    """Return an event, by the record's id or the producer's, and how it stands with each subscription."""
    record = door_of(request).record
    event = await find_event(record, event_id)
    deliveries = await deliveries_of(record, event, Reading(door_of(request).registry.events.values()))
    return _json(shown(event) | {"deliveries": deliveries, "replays": await replays_of(record, event)})


def _json(content: dict[str, Any]) -> Response[Any]:
    return Response(msgspec.json.encode(content), media_type="application/json")


event_routes = Router(
    path="/",
    route_handlers=[publish, find_events, get_event],
    tags=["Events"],
)
