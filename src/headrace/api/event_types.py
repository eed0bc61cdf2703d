"""`/v1/event-types`: which events there are, what their data are, and who listens to them.

Owns the listing of the declared types, with the subscriptions of this code and those on record that meet each: webhooks
too, and what other applications of the deployment have registered.
"""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Router, get

from headrace.api.door import door_of
from headrace.api.paging import DEFAULT_LIMIT, Cursor, Limit, Page, page_by_name
from headrace.database.driver import borrowed
from headrace.events.listeners import listeners
from headrace.events.patterns import matches
from headrace.events.registry import EventType
from headrace.events.shapes import schema_of
from headrace.webhooks.model import FAN_OUT


class EventTypeShown(msgspec.Struct, frozen=True):
    """A declared event type."""

    type: str
    version: int
    oldest_version: int
    """The oldest version whose data are read: as those of `version`."""
    description: str
    schema: dict[str, Any]
    subscriptions: list[str]
    """The names of those that listen to it, also by a pattern; a webhook's is `webhook:` and its id."""


@get("/v1/event-types", summary="List event types")
async def find_event_types(
    request: Request[Any, Any, Any], limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[EventTypeShown]:
    """Return the declared event types, by name."""
    door = door_of(request)
    async with borrowed(door.record.engine) as connection:
        listening = {one.name: one.patterns for one in await listeners(connection)}
    listening |= {name: subscription.patterns for name, subscription in door.registry.subscriptions.items()}
    listening.pop(FAN_OUT, None)  # the webhooks that it serves stand for themselves
    page = page_by_name(door.registry.events.values(), limit, cursor, lambda one: one.type)
    return Page([_shown(event, listening) for event in page.items], page.next_cursor)


def _shown(event: EventType, listening: dict[str, tuple[str, ...]]) -> EventTypeShown:
    return EventTypeShown(
        type=event.type,
        version=event.version,
        oldest_version=event.oldest,
        description=event.description,
        schema=schema_of(event),
        subscriptions=sorted(name for name, patterns in listening.items() if matches(patterns, event.type)),
    )


event_type_routes = Router(path="/", route_handlers=[find_event_types], tags=["Events"])
