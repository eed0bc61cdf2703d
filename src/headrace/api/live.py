"""`GET /v1/events/stream`: events as they come, by server-sent events.

Owns the form of the stream: first where it begins, then a `message` for each event with the marks as its id, and every
15 s where it stands, so that nobody in between takes the connection for dead. With `Last-Event-ID`, which a browser
sends by itself when it comes back, the stream resumes after that event from the record. A client that is slower than
events come is given them from the record; one that takes nothing for seconds is told `dropped` and let go, and one that
goes away is forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Final, cast

import msgspec
from litestar import Request, Response, Router, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import QueryParameter
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from headrace.api.answers import header_of
from headrace.api.door import door_of
from headrace.api.live_run import run_tail
from headrace.api.methods import HEAD
from headrace.api.protocols import transport_of
from headrace.api.tracing import LASTING
from headrace.errors import FieldError, InvalidInputError
from headrace.events.filters import Filter
from headrace.live.frames import Frame, Mark
from headrace.live.hub import Hub
from headrace.live.listener import Interest, Listener
from headrace.live.tailing import Tail, begin_tail

MEDIA_TYPE: Final = "text/event-stream"
_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)
_Types = Annotated[
    list[str] | None,
    QueryParameter(name="type", description="a type, or a pattern such as `orders.*`; may be repeated"),
]
_Subject = Annotated[str | None, QueryParameter(description="the ordering key")]
_FilterText = Annotated[
    str | None, QueryParameter(name="filter", description="which data, as a JSON object; see docs/events.md")
]
_LastEventId = Annotated[
    str | None, QueryParameter(description="resume after this event; the header `Last-Event-ID` comes first")
]
_DESCRIBED: Final = ResponseSpec(
    data_container=str,
    media_type=MEDIA_TYPE,
    generate_examples=False,
    description="Events: `message` with the CloudEvent as `GET /v1/events` shows it, its `id` is what to resume after; "
    "`missed` where retention has dropped events in between; `dropped` with the reason before the stream is ended.",
)


@get(
    "/v1/events/stream",
    summary="Follow events",
    media_type=MEDIA_TYPE,
    responses={200: _DESCRIBED},
)
async def stream_events(
    request: Request[Any, Any, Any],
    types: _Types = None,
    subject: _Subject = None,
    filter_text: _FilterText = None,
    last_event_id: _LastEventId = None,
) -> Response[bytes]:
    """Return events that meet every given condition as they come; see `text/event-stream`."""
    interest = interest_of(types or (), subject, filter_text)
    listener = Listener(interest, owner=request.user.id, transport=transport_of(request.scope))
    resumed = header_of(request.scope, b"last-event-id") or last_event_id or None
    return _Stream(door_of(request).hub, listener, resumed)


def interest_of(types: Sequence[str], subject: str | None, filter_text: str | None) -> Interest:
    """Return what the parameters of a tail ask for.

    Raises:
        InvalidInputError: a pattern or the filter is malformed, or the subject holds a NUL, which none does.

    """
    if subject is not None and "\x00" in subject:
        wrong = FieldError("subject", "the character NUL is not allowed")
        message = f"{wrong.field}: {wrong.message}"
        raise InvalidInputError(message, (wrong,))
    chosen = None
    if filter_text is not None:
        try:
            chosen = Filter.of(msgspec.json.decode(filter_text))
        except (msgspec.DecodeError, RecursionError) as error:
            message = f"filter: this is not JSON: {error}"
            raise InvalidInputError(message, (FieldError("filter", message),)) from error
    return Interest.of(types, subject=subject, filter=chosen)


class _Stream(Response[bytes]):
    """A response that lasts."""

    def __init__(self, hub: Hub, listener: Listener, last_event_id: str | None) -> None:
        super().__init__(b"", media_type=MEDIA_TYPE)
        self._tail = (hub, listener, last_event_id)

    def to_asgi_response(self, app: object, request: Request[Any, Any, Any], **_options: object) -> ASGIResponse:
        """Return the ASGI application that sends it."""
        del app, request
        return _Sent(*self._tail)


class _Sent(ASGIResponse):
    """The beginning of a stream; the rest is sent when the request is over."""

    def __init__(self, hub: Hub, listener: Listener, last_event_id: str | None) -> None:
        self._tail = (hub, listener, last_event_id)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        del receive
        tail = await begin_tail(*self._tail)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
            await _send(send, Mark(tail.began_at, first=True).sse, more=HEAD not in scope)
        except BaseException:
            tail.leave()
            raise
        if HEAD in scope:
            tail.leave()
        else:
            cast("dict[str, object]", scope)[LASTING] = partial(_go_on, tail)


async def _go_on(tail: Tail, receive: Receive, send: Send) -> None:
    async def write(frames: Sequence[Frame]) -> None:
        await _send(send, b"".join([frame.sse for frame in frames]))

    await run_tail(tail, receive, write)
    await _send(send, b"", more=False)


async def _send(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


live_routes: Final = Router(path="/", route_handlers=[stream_events], tags=["Events"])
