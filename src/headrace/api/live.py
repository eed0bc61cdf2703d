"""`GET /v1/events/stream`: events as they come, by server-sent events.

Owns the form of the stream: first where it begins, then a `message` for each event with the marks as its id, and every
15 s where it stands, so that nobody in between takes the connection for dead. With `Last-Event-ID`, which a browser
sends by itself when it comes back, the stream resumes after that event from the record. A client that does not read as
fast as events come is told `dropped` and let go; one that goes away is forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

import msgspec
import structlog
from litestar import Request, Response, Router, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import QueryParameter
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from headrace.api.answers import header_of
from headrace.api.door import door_of
from headrace.api.methods import HEAD
from headrace.database.away import DRIVER_ERRORS
from headrace.errors import FieldError, InvalidInputError
from headrace.events.filters import Filter
from headrace.live.frames import Frame, Mark, Notice
from headrace.live.hub import Hub
from headrace.live.listener import End, Interest, Listener
from headrace.live.tailing import Tail, open_tail

logger = structlog.get_logger(__name__)

MEDIA_TYPE: Final = "text/event-stream"
_START: Final[Any] = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),
    ],
}
TOLD: Final[Mapping[End, str]] = {
    End.SLOW: "you did not read as fast as events came: resume after the last event that you have",
    End.REVOKED: "the key is no longer valid",
}
"""What a client is told of an end that it may not know the reason of."""

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
    listener = Listener(interest, owner=request.user.id)
    resumed = header_of(request.scope, b"last-event-id") or last_event_id or None
    return _Stream(door_of(request).hub, listener, resumed)


def interest_of(types: Sequence[str], subject: str | None, filter_text: str | None) -> Interest:
    """Return what the parameters of a tail ask for.

    Raises:
        InvalidInputError: a pattern or the filter is malformed.

    """
    chosen = None
    if filter_text is not None:
        try:
            chosen = Filter.of(msgspec.json.decode(filter_text))
        except (msgspec.DecodeError, RecursionError) as error:
            message = f"filter: this is not JSON: {error}"
            raise InvalidInputError(message, (FieldError("filter", message),)) from error
    return Interest.of(types, subject=subject, filter=chosen)


@asynccontextmanager
async def watched(receive: Receive, listener: Listener) -> AsyncIterator[None]:
    """End a tail when its client goes away."""

    async def watch() -> None:
        while (await receive())["type"] not in {"http.disconnect", "websocket.disconnect"}:
            pass
        listener.close(End.LEFT)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def frames_of(tail: Tail) -> AsyncIterator[Sequence[Frame]]:
    """Yield the frames of a tail, and at its end what the client is told of it."""
    try:
        while frames := await tail.next():
            yield frames
    except DRIVER_ERRORS as error:  # the record went away while the tail was resumed from it: the client comes back
        logger.debug("tail_broken_off", error=repr(error))
        return
    end = tail.listener.end
    if end is not None and end in TOLD:
        yield (Notice("dropped", end, TOLD[end]),)


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
    """The messages of a stream."""

    def __init__(self, hub: Hub, listener: Listener, last_event_id: str | None) -> None:
        self._hub = hub
        self._listener = listener
        self._last_event_id = last_event_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        async with open_tail(self._hub, self._listener, self._last_event_id) as tail:
            await send(_START)
            if not scope.get(HEAD):
                await _send(send, Mark(tail.began_at, first=True).sse)
                async with watched(receive, tail.listener):
                    async for frames in frames_of(tail):
                        await _send(send, b"".join([frame.sse for frame in frames]))
        await _send(send, b"", more=False)


async def _send(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


live_routes: Final = Router(path="/", route_handlers=[stream_events], tags=["Events"])
