"""`/v1/subscriptions/preview`: how many of yesterday's events a subscription would have been given.

Owns this route. It reads the log within bounds and changes nothing, so it needs the scope of a reader.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Request, Router, post

from headrace.api.door import door_of
from headrace.events.filters import Filter
from headrace.events.patterns import MAX_PATTERN, checked
from headrace.events.preview import Preview, Wish, preview, window_of

_Pattern = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_PATTERN)]
_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class PreviewRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a subscription, a webhook or a live view would name."""

    types: Annotated[
        list[_Pattern],
        msgspec.Meta(min_length=1, max_length=100, description="types, or patterns such as `orders.*`"),
    ]
    filter: Annotated[
        dict[str, Any] | None, msgspec.Meta(description="what the data have to be, in the language of docs/events.md")
    ] = None
    from_time: Annotated[_Moment | None, msgspec.Meta(description="yesterday (UTC) where no time is given")] = None
    to_time: Annotated[_Moment | None, msgspec.Meta(description="before this time; now where from_time is given")] = (
        None
    )


@post(
    "/v1/subscriptions/preview", status_code=200, summary="Preview a subscription", opt={"scope": "subscriptions:read"}
)
async def preview_subscription(request: Request[Any, Any, Any], data: PreviewRequest) -> Preview:
    """Tell how many events of a time that is over would have matched, and name the newest of them.

    The newest are looked at first, 500,000 events or ten seconds at most; `cut` says where that was not enough.
    """
    door = door_of(request)
    wish = Wish(
        types=tuple(checked(pattern, field=f"types.{place}") for place, pattern in enumerate(data.types)),
        filter=None if data.filter is None else Filter.of(data.filter),
        window=window_of(data.from_time, data.to_time),
    )
    return await preview(door.record, door.registry.events, wish)


preview_routes = Router(path="/", route_handlers=[preview_subscription], tags=["Subscriptions"])
