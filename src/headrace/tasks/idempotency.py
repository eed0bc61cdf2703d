"""Three ways for a task to do a piece of work once, however often its job runs.

Owns `check_then_act`, which asks for the effect before it makes it, `once`, which keeps the result of the work in the
table `processed_work` under a unique key, and `claimed`, which marks the effect in Redis for a time. The first two
hold a lock of PostgreSQL until the run's session ends, so of two runs at the same time one waits for the other. What
each of them gives up is said at it. Never take one for a transaction over two stores: a crash between an effect outside
and the commit leaves the effect, and only the other side's own idempotency can mend that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeVar, cast
from uuid import UUID

import msgspec
from sqlalchemy import text

from headrace.errors import UnavailableError
from headrace.jobs.call import holds_nul
from headrace.jobs.retry import PermanentError, Snooze
from headrace.tasks.claims import Busy, ClaimStore, Holder, Standing
from headrace.transaction import Transaction

T = TypeVar("T")

MAX_RESULT_BYTES: Final = 256 * 1024

_LOCK: Final = text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))")

# A row that another transaction has inserted and not committed is waited for: the unique key decides who works.
_ENTER: Final = text("""
    INSERT INTO processed_work (scope, key, job_id) VALUES (:scope, :key, :job_id) ON CONFLICT DO NOTHING
""")
_KEEP: Final = text("""
    UPDATE processed_work SET result = CAST(:result AS jsonb) WHERE scope = :scope AND key = :key
""")
_FIND: Final = text("SELECT CAST(result AS text) FROM processed_work WHERE scope = :scope AND key = :key")


async def check_then_act(
    tx: Transaction, key: str, *, check: Callable[[], Awaitable[T | None]], act: Callable[[], Awaitable[T]]
) -> T:
    """Return what `check` finds; where that is None, return what `act` makes.

    Runs with the same key come one after the other, until the session of each has ended. A run whose connection is
    lost meanwhile has lost the lock as well.
    """
    await tx.connection.execute(_LOCK, {"key": f"check_then_act:{key}"})
    found = await check()
    return await act() if found is None else found


async def once(
    tx: Transaction, place: tuple[str, str], job_id: UUID, *, function: Callable[[], Awaitable[T]], returns: object
) -> T:
    """Return the result that stands under `place`, scope and key; where none does, work, and keep the result there.

    The result commits together with what the function wrote through the session, or not at all. Where the function
    raises, its writes are rolled back to where it began, whatever the task makes of the exception.

    Raises:
        PermanentError: the result is no JSON, is over 256 KiB, or holds a NUL.
        msgspec.ValidationError: the result on record does not fit `returns`.

    """
    where = {"scope": place[0], "key": place[1]}
    while True:
        async with tx.connection.begin_nested():
            entered = (await tx.connection.execute(_ENTER, where | {"job_id": job_id})).rowcount == 1
            if entered:
                value = await function()
                await tx.connection.execute(_KEEP, where | {"result": _encoded(place, value)})
                return value
        kept = (await tx.connection.execute(_FIND, where)).one_or_none()
        if kept is not None:  # else it was pruned between the two statements
            return cast("T", msgspec.json.decode(kept[0] or "null", type=cast("Any", returns)))


def _encoded(place: tuple[str, str], value: object) -> str:
    try:
        encoded = msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        message = f"the result of the work {place[0]} {place[1]} cannot be written as JSON: {error}"
        raise PermanentError(message) from error
    if len(encoded) > MAX_RESULT_BYTES or holds_nul(encoded):
        message = f"the result of the work {place[0]} {place[1]} is over 256 KiB or holds a NUL: keep a reference"
        raise PermanentError(message)
    return encoded.decode()


@asynccontextmanager
async def claimed(claims: ClaimStore, key: str, holder: Holder, *, seconds: float) -> AsyncIterator[bool]:
    """Tell the block whether the effect is its to make: False where it was made before.

    The claim is kept for `seconds` from the end of the block, and given back where the block raises.

    Raises:
        Snooze: another job is at it: the attempt is made again when that one's claim has run out at the latest.
        UnavailableError: Redis is away: the attempt is made again.

    """
    standing = await claims.take(key, holder, seconds)
    if isinstance(standing, Busy):
        raise Snooze(min(standing.seconds, 1.0))
    if standing is Standing.DONE:
        yield False
        return
    try:
        yield True
    except BaseException:
        with suppress(UnavailableError):  # it runs out by itself
            await claims.let_go(key, holder)
        raise
    with suppress(UnavailableError):  # the effect is made: to run again for this would make it twice
        await claims.finish(key, holder, seconds)
