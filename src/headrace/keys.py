"""API keys: who may do what.

Owns the rows of `api_keys` and the form of a key, `hr_<prefix>_<secret>`. Of the secret, 256 random bits, only a
SHA-256 is stored, so a stolen record opens nothing; it is shown once, when the key is made. A key grants scopes,
may expire, and is revoked at once. Scopes are `<resource>:read` and `<resource>:write` with the resource's name in
the path (`jobs`, `events`, `orders`), `*:read`, `*:write`, or `*` for everything; one does not include the other.
Never log a key, and never store one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

import msgspec
from sqlalchemy import text

from headrace.clock import new_id
from headrace.database.record import Record
from headrace.errors import FieldError, InvalidInputError, NotFoundError

_SCOPE = re.compile(r"\*|(\*|[a-z][a-z0-9-]*):(read|write)")
_FORM = re.compile(r"hr_([0-9a-f]{12})_([0-9a-f]{64})")

_INSERT = text("""
    INSERT INTO api_keys (id, name, prefix, secret_hash, scopes, expires_at)
    VALUES (:id, :name, :prefix, :secret_hash, :scopes, :expires_at)
    RETURNING id, name, prefix, scopes, created_at, expires_at, revoked_at, last_used_at
""")

_LIST = text("""
    SELECT id, name, prefix, scopes, created_at, expires_at, revoked_at, last_used_at FROM api_keys ORDER BY id DESC
""")

_REVOKE = text("""
    UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE CAST(id AS text) = :which OR prefix = :which
    RETURNING id, name, prefix, scopes, created_at, expires_at, revoked_at, last_used_at
""")

_VALID = text("""
    SELECT id, name, scopes, secret_hash, last_used_at IS NULL OR last_used_at < now() - interval '1 minute' AS unmarked
    FROM api_keys
    WHERE prefix = :prefix AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
""")

_STILL_VALID = text("""
    SELECT CAST(id AS text) FROM api_keys
    WHERE id = ANY(CAST(:ids AS uuid[])) AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
""")

_MARK_USED = text("""
    UPDATE api_keys SET last_used_at = now()
    WHERE id = :id AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
""")


class Key(msgspec.Struct, frozen=True):
    """A key on record; the secret is not."""

    id: UUID
    name: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class Principal(msgspec.Struct, frozen=True):
    """Who makes a request: a key's name, and what it may do."""

    id: str
    name: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Tell whether this principal has a scope such as `jobs:write`."""
        return "*" in self.scopes or scope in self.scopes or f"*:{scope.rpartition(':')[2]}" in self.scopes


async def create_key(
    record: Record, name: str, scopes: Sequence[str], *, expires_at: datetime | None = None
) -> tuple[Key, str]:
    """Make a key and return it with its full text, which is not kept anywhere.

    Raises:
        InvalidInputError: the name is empty, a scope is malformed, or none is given.

    """
    if not name.strip():
        message = "a key needs a name: whose it is, or what for"
        raise InvalidInputError(message, (FieldError("name", message),))
    wrong = tuple(
        FieldError("scope", f"{scope!r} is no scope, such as jobs:write or *")
        for scope in scopes
        if not _SCOPE.fullmatch(scope)
    )
    if wrong or not scopes:
        message = wrong[0].message if wrong else "a key needs a scope, such as jobs:write or *"
        raise InvalidInputError(message, wrong)
    prefix, secret = secrets.token_hex(6), secrets.token_hex(32)
    row = {
        "id": new_id(),
        "name": name,
        "prefix": prefix,
        "secret_hash": hash_of(secret),
        "scopes": sorted(set(scopes)),
        "expires_at": expires_at,
    }
    async with record.engine.begin() as connection:
        made = (await connection.execute(_INSERT, row)).one()
    return Key(*made), f"hr_{prefix}_{secret}"


async def list_keys(record: Record) -> list[Key]:
    """Return every key, newest first."""
    async with record.engine.connect() as connection:
        return [Key(*row) for row in await connection.execute(_LIST)]


async def revoke_key(record: Record, which: str) -> Key:
    """Revoke a key named by its id or prefix; it opens nothing any more within half a second.

    Raises:
        NotFoundError: there is no such key.

    """
    async with record.engine.begin() as connection:
        row = (await connection.execute(_REVOKE, {"which": which})).one_or_none()
    if row is None:
        message = f"there is no key {which}"
        raise NotFoundError(message)
    return Key(*row)


async def find_principal(record: Record, token: str) -> Principal | None:
    """Return whose valid key this is, and put its use on record at most once a minute; None where it is nobody's."""
    form = _FORM.fullmatch(token)
    if form is None:
        return None
    prefix, secret = form.groups()
    async with record.engine.connect() as connection:
        row = (await connection.execute(_VALID, {"prefix": prefix})).one_or_none()
    if row is None or not hmac.compare_digest(row.secret_hash, hash_of(secret)):
        return None
    if row.unmarked:
        async with record.engine.begin() as connection:
            await connection.execute(_MARK_USED, {"id": row.id})
    return Principal(id=str(row.id), name=row.name, scopes=frozenset(row.scopes))


async def valid_ids(record: Record, ids: Collection[str]) -> set[str]:
    """Return which of these ids of keys are of valid ones."""
    async with record.engine.connect() as connection:
        return set((await connection.execute(_STILL_VALID, {"ids": list(ids)})).scalars())


def hash_of(secret: str) -> bytes:
    """Return what is stored of a secret: SHA-256, which is enough for 256 random bits."""
    return hashlib.sha256(secret.encode()).digest()
