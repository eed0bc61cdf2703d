"""`/v1/lanes`: the lanes that events flow in, and why their number does not change yet.

Owns the route.
"""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Router, get

from headrace.api.door import door_of
from headrace.api.paging import DEFAULT_LIMIT, Cursor, Limit, page_by_name
from headrace.events.lanes import LaneHead, Resize, lane_heads, resize_under_way


class Lanes(msgspec.Struct, frozen=True):
    """A page of lanes."""

    items: list[LaneHead]
    next_cursor: str | None
    resize: Resize | None
    """The change of their number that the leading relay waits to make; null where there is none."""


@get("/v1/lanes", summary="List lanes")
async def find_lanes(request: Request[Any, Any, Any], limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Lanes:
    """Return the lanes, and who is in the way of a change of their number."""
    async with door_of(request).record.engine.connect() as connection:
        found, resize = await lane_heads(connection), await resize_under_way(connection)
    page = page_by_name(found, limit, cursor, lambda one: f"{one.lane:03}")
    return Lanes(page.items, page.next_cursor, resize)


lane_routes = Router(path="/", route_handlers=[find_lanes], tags=["Subscriptions"])
