"""What an operator sees of held keys, and does about them: retry, or skip.

Owns the listing and both actions. They act on the job that blocks a key, and so does whoever retries or cancels that
job by any other way: the key itself is let go by the consumer that has its lane, within half a second of the job's end.
Never touch the waiting events from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.database.record import Bell
from headrace.errors import ConflictError, NotFoundError
from headrace.jobs.cancel import cancel_job
from headrace.jobs.redrive import redrive_job
from headrace.transaction import Transaction


class KeyState(StrEnum):
    """Why a key is held."""

    RETRYING = "retrying"
    """An event of it failed, and its job goes on."""
    DEAD = "dead"
    """The job of the event that failed is dead: somebody has to retry or to skip it."""
    CATCHING_UP = "catching_up"
    """Nothing blocks it: its waiting events are being delivered."""


class HeldKey(msgspec.Struct, frozen=True):
    """A key whose events wait on record."""

    key: str
    state: KeyState
    blocked_since: datetime
    waiting: int
    """How many events wait."""
    job_id: UUID | None
    """The job that they wait for."""
    error: str | None
    """Why its last attempt failed."""


_KEYS: Final = """
    SELECT k.key, k.since,
           (SELECT count(*) FROM waiting_events AS w
            WHERE w.subscription = k.subscription AND w.key = k.key) AS waiting,
           j.id AS job_id, j.state, failed.message AS error
    FROM held_keys AS k
    LEFT JOIN jobs AS j ON j.id = k.job_id AND j.state NOT IN ('succeeded', 'cancelled', 'expired')
    LEFT JOIN LATERAL (
        SELECT type || ': ' || message AS message FROM job_attempts
        WHERE job_id = j.id ORDER BY fence DESC, attempt DESC LIMIT 1) AS failed ON true
    WHERE k.subscription = :subscription
"""
_PAGE: Final = text(_KEYS + 'AND k.key COLLATE "C" > :after ORDER BY k.key COLLATE "C" LIMIT :limit')
_ONE: Final = text(_KEYS + "AND k.key = :key")
_KNOWN: Final = text("SELECT EXISTS (SELECT FROM subscriptions WHERE name = :subscription)")
_AT_ONCE: Final = text("UPDATE jobs SET run_at = now() WHERE id = :id AND state = 'retrying'")
_GIVE_UP: Final = text("""
    UPDATE jobs SET state = 'cancelled', finished_at = now(), cancel_requested_at = now()
    WHERE id = :id AND state = 'dead' RETURNING id
""")


async def held_keys(
    connection: AsyncConnection, subscription: str, *, limit: int, after: str = ""
) -> Sequence[HeldKey]:
    """Return a page of the held keys of a subscription, those after the key `after`.

    Raises:
        NotFoundError: there is no such subscription.

    """
    if not (await connection.execute(_KNOWN, {"subscription": subscription})).scalar_one():
        message = f"there is no subscription {subscription}"
        raise NotFoundError(message)
    rows = await connection.execute(_PAGE, {"subscription": subscription, "after": after, "limit": limit})
    return [_held(row) for row in rows]


async def held_key(connection: AsyncConnection, subscription: str, key: str) -> HeldKey:
    """Return a held key.

    Raises:
        NotFoundError: it is not held, or there is no such subscription.

    """
    row = (await connection.execute(_ONE, {"subscription": subscription, "key": key})).one_or_none()
    if row is None:
        message = f"no event of the key {key} waits for {subscription}"
        raise NotFoundError(message)
    return _held(row)


async def retry_key(tx: Transaction, subscription: str, key: str, *, attempts: int) -> None:
    """Try the event that blocks a key again at once; `attempts` is how many more it gets where its job is dead.

    Raises:
        NotFoundError: the key is not held.
        ConflictError: no event blocks it.

    """
    job_id, state = await _blocking(tx, subscription, key)
    if state is KeyState.DEAD:
        await redrive_job(tx, job_id, attempts=attempts)
    else:
        await tx.connection.execute(_AT_ONCE, {"id": job_id})
        tx.bells.add(Bell.JOBS)


async def skip_key(tx: Transaction, subscription: str, key: str) -> None:
    """Give up the event that blocks a key, so that those behind it go on.

    Raises:
        NotFoundError: the key is not held.
        ConflictError: no event blocks it.

    """
    job_id, state = await _blocking(tx, subscription, key)
    if state is not KeyState.DEAD or (await tx.connection.execute(_GIVE_UP, {"id": job_id})).one_or_none() is None:
        await cancel_job(tx, job_id)


async def _blocking(tx: Transaction, subscription: str, key: str) -> tuple[UUID, KeyState]:
    held = await held_key(tx.connection, subscription, key)
    if held.job_id is None:
        message = f"no event blocks the key {key}: its waiting events are being delivered"
        raise ConflictError(message)
    return held.job_id, held.state


def _held(row: Row[Any]) -> HeldKey:
    state = KeyState.CATCHING_UP
    if row.job_id is not None:
        state = KeyState.DEAD if row.state == "dead" else KeyState.RETRYING
    return HeldKey(row.key, state, row.since, row.waiting, row.job_id, row.error)
