"""Answers: JSON on its way out without a detour, and a request's headers read without parsing them all.

Owns `json_answer`, which the routes that are called most use: it encodes by msgspec and becomes the two ASGI
messages at once. Litestar's own way costs about as much as validating the request does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.response.base import ASGIResponse
from litestar.types import HTTPResponseBodyEvent, HTTPResponseStartEvent, Receive, Scope, Send

JSON: Final = "application/json"
_CONTENT_TYPE: Final = (b"content-type", JSON.encode())


class _Sent(ASGIResponse):
    """The two messages of a JSON answer."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self._start: HTTPResponseStartEvent = {
            "type": "http.response.start",
            "status": status,
            "headers": [
                _CONTENT_TYPE,
                (b"content-length", str(len(body)).encode()),
                *((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()),
            ],
        }
        self._body: HTTPResponseBodyEvent = {"type": "http.response.body", "body": body, "more_body": False}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        del scope, receive
        await send(self._start)
        await send(self._body)


class JsonAnswer(Response[Any]):
    """A response of JSON that is encoded already."""

    def __init__(self, body: bytes, *, status: int, headers: Mapping[str, str]) -> None:
        self.content = body
        self.status_code = status
        self.headers = dict(headers)
        self.media_type = JSON
        self.background = None
        self.cookies = []
        self.encoding = "utf-8"
        self.response_type_encoders = {}

    def to_asgi_response(self, app: object, request: Request[Any, Any, Any], **_options: object) -> ASGIResponse:
        """Return the ASGI application that sends it; no option of Litestar changes an answer that is complete."""
        del app, request
        return _Sent(self.status_code or 200, self.headers, self.content)


def json_answer(content: object, *, status: int, headers: Mapping[str, str]) -> JsonAnswer:
    """Return a response with `content` as JSON."""
    return encoded_answer(msgspec.json.encode(content), status=status, headers=headers)


def encoded_answer(body: bytes, *, status: int, headers: Mapping[str, str]) -> JsonAnswer:
    """Return a response of JSON that is encoded already."""
    return JsonAnswer(body, status=status, headers=headers)


def header_of(scope: Scope, name: bytes) -> str | None:
    """Return a request's header, None where it is absent; `name` is in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return value.decode("latin-1")
    return None
