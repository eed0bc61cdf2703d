"""`/v1/subscriptions/{name}/keys`: keys whose events wait, and what to do about the one that blocks them.

Owns these routes. A key is any text and stands percent-encoded in the path. To retry or to skip it does the same as to
retry or to cancel its job.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote

from litestar import Request, Response, Router, get, post

from headrace.api.door import door_of
from headrace.api.idempotency import Answer, once
from headrace.api.paging import DEFAULT_LIMIT, Cursor, Limit, Page, page_of
from headrace.cursors import place_of
from headrace.errors import FieldError, InvalidInputError
from headrace.jobs.retry import Retry
from headrace.subscribers.key_standing import HeldKey, held_key, held_keys, retry_key, skip_key
from headrace.transaction import Transaction

_UNDECLARED: Final = Retry()
"""The policy of subscriptions that no application of this API declares."""


@get("/v1/subscriptions/{name:str}/keys", summary="List held keys")
async def find_keys(
    request: Request[Any, Any, Any], name: str, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[HeldKey]:
    """Return the keys of a subscription whose events wait on record, by key."""
    async with door_of(request).record.engine.connect() as connection:
        found = await held_keys(connection, name, limit=limit + 1, after=place_of(cursor) or "")
    return page_of(found, limit, lambda one: one.key)


@post("/v1/subscriptions/{name:str}/keys/{key:str}/retry", status_code=202, summary="Retry the event that blocks a key")
async def retry(request: Request[Any, Any, Any], name: str, key: str) -> Response[HeldKey]:
    """Try the event that blocks a key again, at once; those behind it follow when it has succeeded."""
    wanted = _decoded(key)
    declared = door_of(request).registry.subscriptions.get(name)
    attempts = (declared.policy.retry if declared else _UNDECLARED).max_attempts

    async def work(tx: Transaction) -> Answer:
        await retry_key(tx, name, wanted, attempts=attempts)
        return Answer(202, await held_key(tx.connection, name, wanted))

    return await once(request, work)


@post("/v1/subscriptions/{name:str}/keys/{key:str}/skip", status_code=202, summary="Skip the event that blocks a key")
async def skip(request: Request[Any, Any, Any], name: str, key: str) -> Response[HeldKey]:
    """Give up the event that blocks a key: its job is cancelled, and those behind it go on."""
    wanted = _decoded(key)

    async def work(tx: Transaction) -> Answer:
        await skip_key(tx, name, wanted)
        return Answer(202, await held_key(tx.connection, name, wanted))

    return await once(request, work)


def _decoded(key: str) -> str:
    """Return the key that stands in a path.

    Raises:
        InvalidInputError: it holds a NUL, which no key does.

    """
    decoded = unquote(key)
    if "\x00" in decoded:
        wrong = FieldError("key", "the character NUL is not allowed")
        message = f"{wrong.field}: {wrong.message}"
        raise InvalidInputError(message, (wrong,))
    return decoded


key_routes = Router(path="/", route_handlers=[find_keys, retry, skip], tags=["Subscriptions"])
