"""Asking for a rebuild: a projection's tables are made anew from the record.

Owns the check whether that can be done, the count, and the birth of the job together with its place. A projection has
to name its tables, all its own, which can take the place of one another; and the record has to reach back to the first
event, or the new tables would know less than the old ones: who wants that says so. One rebuild of a projection is under
way at a time: who asks for another one gets the job of the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import asyncpg

from headrace.clock import new_id
from headrace.errors import ConflictError
from headrace.events.lane import Stretch, stretches
from headrace.subscribers.again import Wish, count_of
from headrace.subscribers.contract import Kind, Subscription
from headrace.subscribers.listening import wanted_by
from headrace.subscribers.replay import Asked, Replayed, Selection, call_of, require_sound, subscription_of
from headrace.subscribers.replay_place import Begun, begin_place
from headrace.subscribers.shadow import Shadow
from headrace.subscribers.shadow_definition import tables_named
from headrace.transaction import Transaction

REBUILD: Final = "headrace.rebuild"
"""The task that rebuilds."""

_TOTAL: Final = "SELECT total FROM replays WHERE job_id = $1"
_CHECKPOINTS: Final = "SELECT lane, position FROM checkpoints WHERE subscription = $1"
_PRUNED: Final = """
    SELECT whole.lane, coalesce(kept.first, whole.upto + 1) AS first
    FROM (SELECT s.lane, min(s.after) AS after, max(coalesce(s.upto, l.head)) AS upto
          FROM lane_stretches s LEFT JOIN lanes l ON l.lane = s.lane GROUP BY s.lane) AS whole
    CROSS JOIN LATERAL (SELECT min(position) AS first FROM lane_log WHERE lane = whole.lane) AS kept
    WHERE whole.upto > whole.after AND coalesce(kept.first, whole.upto + 1) > whole.after + 1
    ORDER BY whole.lane LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class AskedRebuild:
    """A request for a rebuild."""

    name: str
    rate_per_second: float | None = None
    dry_run: bool = False
    accept_pruned: bool = False
    """Whether it may be made of what retention has left."""


async def start_rebuild(tx: Transaction, known: Mapping[str, Subscription], asked: AskedRebuild) -> Replayed:
    """Begin the rebuild of a projection in the caller's transaction, or only count for a dry run.

    Raises:
        NotFoundError: there is no such subscription.
        ConflictError: it cannot be rebuilt; the message says why.
        InvalidInputError: the rate is none.

    """
    selection = Selection(rate_per_second=asked.rate_per_second)
    require_sound(selection)
    connection = await tx.driver()
    subscription = await subscription_of(connection, known, asked.name)
    require_own_tables(subscription, known)
    tables = await tables_named(connection, subscription.tables)
    if not asked.accept_pruned:
        await _require_whole(connection)
    found = await stretches_to_checkpoints(connection, asked.name)
    count = await count_of(connection, found, wish_of(subscription))
    if asked.dry_run:
        return Replayed(count, None)
    job_id = new_id()
    call = call_of(REBUILD, Asked(asked.name, selection), unique_key=asked.name)
    (placed,) = await tx.enqueue_calls([call], ids=[job_id])
    if placed != job_id:
        return Replayed(await connection.fetchval(_TOTAL, placed) or count, placed)
    shadow = Shadow(job_id, tables).schema
    begun = Begun(job_id=job_id, subscription=asked.name, total=count, stretches=found, shadow=shadow)
    await begin_place(connection, begun)
    return Replayed(count, job_id)


def wish_of(subscription: Subscription) -> Wish:
    """Return what a projection wants of the record: all that it listens to."""
    means = None if subscription.filter is None else wanted_by(subscription).means
    return Wish(subscription.patterns, means=means)


async def stretches_to_checkpoints(connection: asyncpg.Connection[asyncpg.Record], subscription: str) -> list[Stretch]:
    """Return the log as far as a subscription has it live."""
    checkpoints = dict(await connection.fetch(_CHECKPOINTS, subscription))
    return [
        Stretch(one.generation, one.lane, one.after, max(one.after, min(one.upto, checkpoints.get(one.lane, 0))))
        for one in await stretches(connection)
    ]


def require_own_tables(subscription: Subscription, known: Mapping[str, Subscription]) -> None:
    """Refuse what has no tables of its own.

    Raises:
        ConflictError: it is no projection, names no tables, or shares one.

    """
    if subscription.kind is not Kind.PROJECTION:
        message = f"{subscription.name} is a {subscription.kind}, which has no tables: replay its events instead"
        raise ConflictError(message)
    if not subscription.tables:
        message = f"{subscription.name} names no tables: declare all that it writes to, as tables=(…,)"
        raise ConflictError(message)
    for other in known.values():
        if other.name != subscription.name and (shared := set(other.tables) & set(subscription.tables)):
            message = f"{other.name} writes to {', '.join(sorted(shared))} too: a rebuild of one would lose the other's"
            raise ConflictError(message)


async def _require_whole(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    pruned = await connection.fetchrow(_PRUNED)
    if pruned is not None:
        message = (
            f"retention has dropped events: lane {pruned['lane']} begins at position {pruned['first']}, so the new "
            "tables would know less than the old ones; say accept_pruned to have them all the same"
        )
        raise ConflictError(message)
