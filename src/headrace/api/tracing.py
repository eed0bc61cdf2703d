"""One span, one `Trace-Id` and one measurement for each request, whatever becomes of it.

Owns the outermost layer of the application: it continues the caller's trace, names the span by the route's template,
and puts `Trace-Id` on every answer, errors and unknown paths included. It reads no body and decides nothing. What a
handler leaves in the scope as `LASTING` goes on when the request is over, as far as span, measurement and memory go.
Never label by the path itself: paths hold ids.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, cast

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from headrace.api.answers import header_of
from headrace.telemetry.edges import answered_by_us, routed, serve
from headrace.telemetry.metrics import Metrics

LASTING: Final = "headrace.lasting"
"""Where the scope of a request has what sends the rest of its answer, where that may take hours."""

Lasting = Callable[[Receive, Send], Awaitable[None]]


class Traced:
    """An ASGI application with a span around each request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == ScopeType.HTTP:
            await self._serve(scope, receive, send)
            lasting = cast("Lasting | None", cast("dict[str, object]", scope).pop(LASTING, None))
            if lasting is not None:
                await lasting(receive, send)
        else:
            await self._app(scope, receive, send)

    async def _serve(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        began = time.perf_counter()
        status = 500
        with serve(method, header_of(scope, b"traceparent")) as span:
            trace_id = (b"trace-id", span.trace_id.encode())

            async def answer(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                    message["headers"] = [*message["headers"], trace_id]
                await send(message)

            await self._app(scope, receive, answer)
            route = str(scope.get("path_template") or "")
            if route:
                routed(span, method, route)
            answered_by_us(span, status)
        self._metrics.observe_request(method, route, status=status, seconds=time.perf_counter() - began)
