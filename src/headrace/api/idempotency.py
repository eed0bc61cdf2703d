"""Idempotency: a repeated request gets the first answer again.

Owns `once`, by which every POST that creates runs its work: in one transaction, and, where the caller gave an
`Idempotency-Key`, together with the answer. So a crash after the commit and before the answer is healed by repeating
the request. The same key with another body is refused, and so is a repeat while the first is under way. A request
that fails stores nothing. Keys are each caller's own and are kept for 24 hours.
Never answer anything that the transaction did not commit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NoReturn

import asyncpg
import msgspec
from litestar import Request, Response
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from headrace.api.answers import encoded_answer, header_of, json_answer
from headrace.database.away import is_undone
from headrace.errors import ConflictError, FieldError, InvalidInputError
from headrace.transaction import Transaction, transaction

HEADER: Final = "Idempotency-Key"
REPLAY: Final = "Idempotent-Replay"
_LONGEST: Final = 255
_TRIES: Final = 3
_NAME: Final = HEADER.lower().encode()

_LOCK = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:principal || chr(31) || :key, 0))")

_FIND = text("""
    SELECT request_hash, status, headers, body FROM idempotency_keys
    WHERE principal = :principal AND key = :key AND created_at > now() - interval '24 hours'
""")

_KEEP = text("""
    INSERT INTO idempotency_keys (principal, key, request_hash, status, headers, body)
    VALUES (:principal, :key, :request_hash, :status, CAST(:headers AS jsonb), :body)
    ON CONFLICT (principal, key) DO UPDATE SET request_hash = excluded.request_hash, status = excluded.status,
        headers = excluded.headers, body = excluded.body, created_at = now()
""")


class Answer(msgspec.Struct, frozen=True):
    """What to answer when the transaction has committed; `content` becomes JSON."""

    status: int
    content: object
    headers: Mapping[str, str] = {}


Work = Callable[[Transaction], Awaitable[Answer]]


async def once(request: Request[Any, Any, Any], work: Work) -> Response[Any]:
    """Do the work in one transaction and answer; a repeat under one `Idempotency-Key` gets the first answer.

    Where PostgreSQL rolls the transaction back because another one is in its way, the work is done anew, twice at most.

    Raises:
        ConflictError: the first request with this key is still under way.
        InvalidInputError: the key was used for another request, or is malformed.

    Example:
        >>> @post("/v1/orders/{order_id:uuid}/confirm", status_code=202)
        ... async def confirm(request: Request, order_id: UUID) -> Response[Confirmation]:
        ...     async def work(tx: Transaction) -> Answer:
        ...         return Answer(202, await orders.confirm(tx, order_id))
        ...     return await once(request, work)

    """
    for _ in range(_TRIES - 1):
        try:
            return await _once(request, work)
        except (DBAPIError, asyncpg.PostgresError) as error:
            if not is_undone(error):
                raise
    return await _once(request, work)


async def _once(request: Request[Any, Any, Any], work: Work) -> Response[Any]:
    record = request.app.state.door.record
    key = header_of(request.scope, _NAME)
    if key is None:
        async with transaction(record) as tx:
            answer = await work(tx)
        return json_answer(answer.content, status=answer.status, headers=answer.headers)
    place = {"principal": request.auth.id, "key": _checked(key)}
    request_hash = await _hash_of(request)
    async with transaction(record) as tx:
        if (first := await _first_answer(tx, place, request_hash)) is not None:
            return first
        answer = await work(tx)
        body = msgspec.json.encode(answer.content)
        row = {
            "request_hash": request_hash,
            "status": answer.status,
            "headers": msgspec.json.encode(answer.headers).decode(),
            "body": body,
        }
        await tx.connection.execute(_KEEP, place | row)
    return encoded_answer(body, status=answer.status, headers=answer.headers)


async def _first_answer(tx: Transaction, place: Mapping[str, str], request_hash: bytes) -> Response[Any] | None:
    """Return the stored answer; None where this request is the first, which then holds the key until it commits."""
    if not (await tx.connection.execute(_LOCK, place)).scalar_one():
        message = f"the first request with this {HEADER} is still under way"
        raise ConflictError(message)
    # a statement of its own: only now does the snapshot see what the holder before us has committed
    row = (await tx.connection.execute(_FIND, place)).one_or_none()
    if row is None:
        return None
    if row.request_hash != request_hash:
        _refuse("this key was used for another request: use a new one")
    return encoded_answer(row.body, status=row.status, headers={**row.headers, REPLAY: "true"})


def _checked(key: str) -> str:
    if not 0 < len(key) <= _LONGEST or not key.isprintable():
        _refuse(f"a key has 1 to {_LONGEST} printable characters")
    return key


async def _hash_of(request: Request[Any, Any, Any]) -> bytes:
    line = f"{request.method} {request.scope['path']}\n".encode()
    return hashlib.sha256(line + await request.body()).digest()


def _refuse(message: str) -> NoReturn:
    raise InvalidInputError(message, (FieldError(HEADER, message),))
