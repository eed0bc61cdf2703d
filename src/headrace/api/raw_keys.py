"""Keys in paths: any text, percent-encoded, slashes too.

Owns how such a path reaches its route. The server decodes the path before anybody sees it, and a slash in a key would
be one between two parts; so the part that holds a key is put back as it was sent, and its handler decodes it. Never
decode it twice.
"""

from __future__ import annotations

import re
from typing import Final, cast
from urllib.parse import quote

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

_KEY: Final = re.compile(rb"(/v1/subscriptions/[^/?]+/keys/)([^?]+)(/(?:retry|skip))(?:\?.*)?\Z", re.DOTALL)


class RawKeys:
    """An ASGI application that leaves the key in a path as it was sent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == ScopeType.HTTP and "/keys/" in scope["path"]:
            found = _KEY.match(scope.get("raw_path") or quote(scope["path"]).encode())
            if found is not None:
                before, key, after = scope["path"].partition("/keys/")[0], found[2].decode("latin-1"), found[3].decode()
                path = f"{before}/keys/{key.replace('/', '%2F')}{after}"
                scope = cast("Scope", dict(scope) | {"path": path})
        await self._app(scope, receive, send)
