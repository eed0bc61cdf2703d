"""WebSocket `/v1/live`: events as they come, one message each.

Owns the handshake and the closing. A connection is refused before it is upgraded, with the status and the problem that
the same request over HTTP would get. A key comes in `Authorization`; a browser, which cannot set that, offers the
subprotocols `headrace.live` and `bearer.<key in base64url>`, of which the first is taken: so a key is in no URL, and in
no log of anybody in between. What a client sends is not read. Never accept first and refuse then.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast
from urllib.parse import parse_qs

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from headrace.api.answers import header_of
from headrace.api.auth import admit, bearer_of
from headrace.api.door import Door
from headrace.api.live import interest_of
from headrace.api.live_run import run_tail
from headrace.api.problems import MEDIA_TYPE, Verdict, problem_of, verdict_on_handshake
from headrace.api.protocols import transport_of
from headrace.live.frames import Frame
from headrace.live.listener import End, Listener
from headrace.live.tailing import Tail, begin_tail
from headrace.telemetry.edges import answered_by_us, routed, serve

PATH: Final = "/v1/live"
SCOPE: Final = "events:read"
SUBPROTOCOL: Final = "headrace.live"
_KEY: Final = "bearer."
_SWITCHING: Final = 101
_BROKEN: Final = 1011
"""The record went away while the tail was resumed from it."""

_CODES: Final[Mapping[End, int]] = {End.SLOW: 1013, End.STOPPING: 1012, End.REVOKED: 1008}
"""https://www.iana.org/assignments/websocket/websocket.xhtml: try again later, service restart, policy violation."""


class LiveSocket:
    """An ASGI application that serves live tails over WebSocket, and leaves all else to the one below."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != ScopeType.WEBSOCKET or scope["path"] != PATH:
            await self._app(scope, receive, send)
            return
        await receive()  # websocket.connect
        tail, trace_id = await self._shaken(scope, send)
        if tail is None:
            return
        try:
            await _accept(scope, send, tail, trace_id)
            await _go_on(tail, receive, send)
        finally:
            tail.leave()

    async def _shaken(self, scope: Scope, send: Send) -> tuple[Tail | None, str]:
        """Begin the tail of a handshake, None where it was refused, within a span; return the trace's id, too.

        It is accepted outside the span: the server's timers would keep that as long as the connection.
        """
        began = time.perf_counter()
        with serve("GET", header_of(scope, b"traceparent")) as span:
            routed(span, "GET", PATH)
            try:
                tail, status = await self._begun(scope), _SWITCHING
            except Exception as error:  # noqa: BLE001 - failure table: it is answered as an HTTP request would be
                refused = verdict_on_handshake(error)
                tail, status = None, refused.status
                await _refuse(send, refused, span.trace_id)
            answered_by_us(span, status)
        self._door.metrics.observe_request("GET", PATH, status=status, seconds=time.perf_counter() - began)
        return tail, span.trace_id

    async def _begun(self, scope: Scope) -> Tail:
        """Begin the tail that is asked for, if the key opens it."""
        principal = await admit(self._door.keys, bearer_of(scope) or _offered_key(scope), SCOPE)
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        one = {name: values[-1] for name, values in query.items()}
        interest = interest_of(query.get("type", ()), one.get("subject"), one.get("filter"))
        resumed = header_of(scope, b"last-event-id") or one.get("last_event_id") or None
        listener = Listener(interest, owner=principal.id, beats=False, transport=transport_of(scope))
        return await begin_tail(self._door.hub, listener, resumed)


async def _go_on(tail: Tail, receive: Receive, send: Send) -> None:
    async def write(frames: Sequence[Frame]) -> None:
        for frame in frames:
            if frame.message is not None:
                await send({"type": "websocket.send", "text": frame.message, "bytes": None})

    end = await run_tail(tail, receive, write)
    if end is not End.LEFT:
        code = _BROKEN if end is None else _CODES[end]
        await send({"type": "websocket.close", "code": code, "reason": "" if end is None else end.value})


def _offered_key(scope: Scope) -> str | None:
    """Return the key that a browser offers as a subprotocol."""
    encoded = next((one.removeprefix(_KEY) for one in _subprotocols(scope) if one.startswith(_KEY)), None)
    if encoded is None:
        return None
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""  # nobody's


def _subprotocols(scope: Scope) -> list[str]:
    return cast("list[str]", scope.get("subprotocols", []))


async def _accept(scope: Scope, send: Send, tail: Tail, trace_id: str) -> None:
    chosen = SUBPROTOCOL if SUBPROTOCOL in _subprotocols(scope) else None
    headers = [(b"trace-id", trace_id.encode()), (b"last-event-id", tail.began_at.encode())]
    await send({"type": "websocket.accept", "subprotocol": chosen, "headers": headers})


async def _refuse(send: Send, verdict: Verdict, trace_id: str) -> None:
    headers = {"Content-Type": MEDIA_TYPE, "Trace-Id": trace_id, **verdict.headers}
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    start: Any = {"type": "websocket.http.response.start", "status": verdict.status, "headers": encoded}
    body: Any = {"type": "websocket.http.response.body", "body": msgspec.json.encode(problem_of(verdict))}
    await send(start)
    await send(body)
