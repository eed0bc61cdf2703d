"""The HTTP API of a test: the real one, with the application's own controllers, called without a socket.

Owns the client and its key, which opens everything. A request is handled in the test's process and at the test's time;
what it accepts is on the test's record, to be drained from there. Never listen on a port: no two tests may meet.
"""

from __future__ import annotations

import secrets
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import msgspec
from litestar.exceptions import LitestarDeprecationWarning

from headrace.api.app import create_app
from headrace.api.door import open_door
from headrace.testing.observed import Observed


class _AtItsTime(httpx.ASGITransport):
    """Lets the clock of a test tell the time while a request is handled."""

    def __init__(self, app: Any, headrace: Observed) -> None:  # noqa: ANN401 - Litestar and httpx type ASGI in their own ways
        super().__init__(app)
        self._headrace = headrace

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Handle a request."""
        with self._headrace.at_its_time():
            return await super().handle_async_request(request)


@asynccontextmanager
async def open_client(headrace: Observed) -> AsyncIterator[httpx.AsyncClient]:
    """Open a client of the API for the block.

    Example:
        >>> async with open_client(headrace) as client:
        ...     answer = await client.post("/v1/orders", json={"items": ["mug"]})
        ...     assert answer.status_code == 201

    """
    key = headrace.settings.api_key or secrets.token_hex(16)
    settings = msgspec.structs.replace(headrace.settings, api_key=key)
    async with open_door(settings, headrace.registry, headrace.record) as door:
        with warnings.catch_warnings():  # of Litestar, about Headrace's own handlers: not the test's business
            warnings.simplefilter("ignore", LitestarDeprecationWarning)
            app = create_app(door)
        transport = _AtItsTime(cast("Any", app), headrace)
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://headrace", headers=headers) as client:
            yield client
