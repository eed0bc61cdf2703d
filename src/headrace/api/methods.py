"""HEAD and OPTIONS, for every path alike.

Owns what HTTP asks of them (RFC 9110, 9.3.2 and 9.3.7): HEAD is GET without the body, `Allow` names all methods
of a path. The router below knows neither: it has one answer to OPTIONS for each handler, and none to HEAD.
Never answer here for a path that is not there.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final, cast

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPResponseStartEvent, HTTPScope, Message, Receive, Scope, Send

HEAD: Final = "headrace.head"
"""What the scope of a GET has that was a HEAD: who would go on sending for long may stop at once."""
_NOBODYS: Final = "TRACE"
"""A method without handlers: the answer to it, 405, lists those that there are."""


class Methods:
    """An ASGI application that answers HEAD and OPTIONS from what the one below answers to other methods."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
        elif scope["method"] == "HEAD":
            await self._head(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            await self._options(scope, receive, send)
        else:
            await self._app(scope, receive, _naming_head(send))

    async def _head(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        async def without_body(message: Message) -> None:
            scope["method"] = "HEAD"  # the server reads it here: of a GET it would miss the body, and hang up
            if message["type"] == "http.response.body":
                message["body"] = b""
            await send(message)

        scope["method"] = "GET"
        cast("dict[str, object]", scope)[HEAD] = True
        await self._app(scope, receive, _naming_head(without_body))

    async def _options(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        listed = False

        async def allowed(message: Message) -> None:
            nonlocal listed
            if message["type"] == "http.response.start" and message["status"] == HTTPStatus.METHOD_NOT_ALLOWED:
                listed = True
                message["status"] = HTTPStatus.NO_CONTENT
                message["headers"] = [pair for pair in message["headers"] if pair[0] == b"allow"]
            elif message["type"] == "http.response.body" and listed:
                message["body"] = b""
            await send(message)

        scope["method"] = _NOBODYS
        await self._app(scope, receive, _naming_head(allowed))


def _naming_head(send: Send) -> Send:
    """Add HEAD to `Allow` wherever GET is."""

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == HTTPStatus.METHOD_NOT_ALLOWED:
            _add_head(message)
        await send(message)

    return answer


def _add_head(message: HTTPResponseStartEvent) -> None:
    message["headers"] = [
        (name, _with_head(value) if name == b"allow" else value) for name, value in message["headers"]
    ]


def _with_head(allow: bytes) -> bytes:
    methods = {method.strip() for method in allow.decode("latin-1").split(",")}
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set()))).encode("latin-1")
