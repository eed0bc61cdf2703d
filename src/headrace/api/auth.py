"""Who may pass: every route needs a key with the route's scope, unless it says that it is public.

Owns the guard of the whole application, so that an application's controllers are protected without a word. The scope of
a route is the first part of its path below `/v1` and the verb: `GET /v1/orders/{id}` needs `orders:read`, any unsafe
method `orders:write`. A handler may say otherwise by `opt={"scope": "…"}` or `opt={"public": True}`.
What is known of a key is forgotten after 0.4 s, so a revoked key opens nothing a second later.
"""

from __future__ import annotations

import hmac
import time
from functools import lru_cache
from typing import Any, Final

from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException
from litestar.handlers import BaseRouteHandler
from litestar.types import Scope

from headrace.api.answers import header_of
from headrace.database.record import Record
from headrace.keys import Principal, find_principal, hash_of

KEEP_SECONDS: Final = 0.4
PUBLIC: Final = {"public": True}
_MOST_KEPT: Final = 1024
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}
OPERATOR: Final = Principal(id="operator", name="operator", scopes=frozenset({"*"}))
"""Whose key the settings name."""


class KeyRing:
    """The keys that this process knows at the moment."""

    def __init__(self, record: Record, api_key: str | None) -> None:
        """Look keys up in the record; `api_key` is valid besides, for everything."""
        self._record = record
        self._operator = hash_of(api_key) if api_key else None
        self._kept: dict[bytes, tuple[float, Principal | None]] = {}

    async def principal_of(self, token: str) -> Principal | None:
        """Return whose key this is, None where it is nobody's."""
        digest = hash_of(token)
        if self._operator is not None and hmac.compare_digest(digest, self._operator):
            return OPERATOR
        now = time.monotonic()
        kept = self._kept.get(digest)
        if kept is not None and kept[0] > now:
            return kept[1]
        found = await find_principal(self._record, token)
        if len(self._kept) >= _MOST_KEPT:
            self._kept.clear()
        self._kept[digest] = (now + KEEP_SECONDS, found)
        return found


async def authorize(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Let a request pass, or refuse it: the guard of the application.

    Raises:
        NotAuthorizedException: there is no key, or nobody's (401).
        PermissionDeniedException: the key lacks the scope (403).

    """
    if handler.opt.get("public"):
        return
    needed = handler.opt.get("scope") or scope_of(
        str(connection.scope.get("path_template")), str(connection.scope.get("method"))
    )
    principal = await admit(connection.app.state.door.keys, bearer_of(connection.scope), needed)
    connection.scope["auth"] = connection.scope["user"] = principal


async def admit(keys: KeyRing, token: str | None, needed: str) -> Principal:
    """Return whose key this is.

    Raises:
        NotAuthorizedException: there is no key, or nobody's (401).
        PermissionDeniedException: the key lacks the scope (403).

    """
    if token is None:
        message = "this needs a key: Authorization: Bearer <key>"
        raise NotAuthorizedException(message, headers=_CHALLENGE)
    principal = await keys.principal_of(token)
    if principal is None:
        message = "this key is unknown, expired or revoked"
        raise NotAuthorizedException(message, headers=_CHALLENGE)
    if not principal.may(needed):
        message = f"this needs a key with the scope {needed}"
        raise PermissionDeniedException(message)
    return principal


@lru_cache(maxsize=1024)
def scope_of(route: str, method: str) -> str:
    """Return the scope that a route needs unless it says otherwise."""
    parts = route.strip("/").split("/")
    resource = parts[1] if len(parts) > 1 and parts[0] == "v1" else parts[0]
    return f"{resource}:{'read' if method in _SAFE else 'write'}"


def bearer_of(scope: Scope) -> str | None:
    """Return the key in the header `Authorization`, None where there is none."""
    kind, _, token = (header_of(scope, b"authorization") or "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None
