"""Asking for a replay: which events of the record one subscription is to be given again.

Owns the check of what is asked for, the count, and the birth of the job together with its place. What is replayed is
settled then: what is published later is live traffic. Both a time and a position to begin at are refused; neither means
all that is on record. An integer position holds for all lanes, an object names those lanes that are replayed and no
other. A projection is not replayed but rebuilt. Never begin anything for a dry run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, NoReturn
from uuid import UUID

import asyncpg
import msgspec
from msgspec.structs import replace

from headrace.clock import new_id
from headrace.errors import ConflictError, FieldError, InvalidInputError, NotFoundError
from headrace.events.lane import Stretch, stretches
from headrace.events.patterns import checked
from headrace.jobs.call import Call
from headrace.subscribers.again import Wish, count_of, first_after, last_before
from headrace.subscribers.contract import Kind, Subscription
from headrace.subscribers.failures import QUEUE
from headrace.subscribers.listening import wanted_by
from headrace.subscribers.replay_place import Begun, begin_place
from headrace.transaction import Transaction
from headrace.webhooks.model import webhook_of
from headrace.webhooks.replaying import wish_of_webhook

REPLAY: Final = "headrace.replay"
"""The task that replays."""

ATTEMPTS: Final = 10
LOSSES: Final = 20
"""How many workers may die under one replay: it may be at work for days."""

FASTEST: Final = 1_000_000.0
_FIRST_YEAR: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_YEAR: Final = datetime(9999, 1, 1, tzinfo=UTC)

Position = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Selection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which events, and how fast: as it stands among the arguments of the job."""

    from_time: datetime | None = None
    to_time: datetime | None = None
    from_position: Position | dict[str, Position] | None = None
    types: tuple[str, ...] | None = None
    rate_per_second: float | None = None

    def wish_of(self, subscription: Subscription) -> Wish:
        """Return what is wanted of the record for a subscription: of what it listens to, what was asked for."""
        means = None if subscription.filter is None else wanted_by(subscription).means
        return dataclasses.replace(self.wish, patterns=subscription.patterns, means=means)

    @property
    def wish(self) -> Wish:
        """What is wanted of the record for whoever listens to everything."""
        return Wish(("*",), ("*",) if self.types is None else self.types, self.from_time, self.to_time)


class Replayed(msgspec.Struct, frozen=True):
    """What was begun: how many events, and the job that replays them; None where nothing was begun."""

    count: int
    job_id: UUID | None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for a replay."""

    name: str
    selection: Selection
    dry_run: bool = False


async def start_replay(tx: Transaction, known: Mapping[str, Subscription], asked: Asked) -> Replayed:
    """Begin a replay to one subscription in the caller's transaction, or only count for a dry run.

    Raises:
        NotFoundError: there is no such subscription.
        ConflictError: it is a projection, or no loaded application has it.
        InvalidInputError: a time, a position or a pattern is wrong.

    Example:
        >>> async with transaction(record) as tx:
        ...     replayed = await start_replay(tx, registry.subscriptions, Asked("shop.welcome", Selection()))

    """
    require_sound(asked.selection)
    connection = await tx.driver()
    wish = await _wish_of(connection, known, asked)
    stretches = await stretches_of(connection, asked.selection)
    count = await count_of(connection, stretches, wish)
    if asked.dry_run:
        return Replayed(count, None)
    job_id = new_id()
    await tx.enqueue_calls([call_of(REPLAY, asked)], ids=[job_id])
    await begin_place(connection, Begun(job_id=job_id, subscription=asked.name, total=count, stretches=stretches))
    return Replayed(count, job_id)


async def _wish_of(
    connection: asyncpg.Connection[asyncpg.Record], known: Mapping[str, Subscription], asked: Asked
) -> Wish:
    if (webhook_id := webhook_of(asked.name)) is not None:
        return await wish_of_webhook(connection, webhook_id, asked.selection.wish)
    subscription = await subscription_of(connection, known, asked.name)
    if subscription.kind is Kind.PROJECTION:
        message = f"{asked.name} is a projection: to be given events again would count them twice; rebuild it instead"
        raise ConflictError(message)
    return asked.selection.wish_of(subscription)


async def subscription_of(
    connection: asyncpg.Connection[asyncpg.Record], known: Mapping[str, Subscription], name: str
) -> Subscription:
    """Return a subscription that is on record and in this code.

    Raises:
        NotFoundError: there is none of this name on record.
        ConflictError: no loaded application has it.

    """
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM subscriptions WHERE name = $1)", name):
        message = f"there is no subscription {name}"
        raise NotFoundError(message)
    if name not in known:
        message = f"no loaded application has the subscription {name}: nobody could be given its events"
        raise ConflictError(message)
    return known[name]


def require_sound(selection: Selection) -> None:
    """Refuse what cannot be meant.

    Raises:
        InvalidInputError: naming the field.

    """
    for field in ("from_time", "to_time"):
        moment: datetime | None = getattr(selection, field)
        if moment is not None and moment.tzinfo is None:
            _refuse(field, "this must be RFC 3339 with a time zone, such as 2026-01-31T12:00:00Z")
        if moment is not None and not _FIRST_YEAR <= moment <= _LAST_YEAR:
            _refuse(field, "this must lie between the years 1970 and 9999")
    if selection.from_time is not None and selection.from_position is not None:
        _refuse("from_position", "give a time to begin at or a position, not both")
    if selection.from_time and selection.to_time and selection.to_time <= selection.from_time:
        _refuse("to_time", "this must be later than from_time")
    for number, pattern in enumerate(selection.types or ()):
        checked(pattern, field=f"types.{number}")
    if isinstance(selection.from_position, dict) and not selection.from_position:
        _refuse("from_position", "this names no lane")
    if selection.types is not None and not selection.types:
        _refuse("types", "this names no type")
    rate = selection.rate_per_second
    if rate is not None and not 0 < rate <= FASTEST:
        _refuse("rate_per_second", f"this must be a finite number above 0, at most {FASTEST:,.0f}")


async def stretches_of(connection: asyncpg.Connection[asyncpg.Record], selection: Selection) -> list[Stretch]:
    """Return the positions of the log that may hold what is wanted.

    Raises:
        InvalidInputError: a position is given for a lane that is none.

    """
    found = await stretches(connection)
    if selection.from_position is not None:
        found = _from_position(found, selection.from_position)
    if selection.from_time is not None:
        found = [replace(one, after=await last_before(connection, one, selection.from_time)) for one in found]
    if selection.to_time is not None:
        found = [replace(one, upto=await first_after(connection, one, selection.to_time)) for one in found]
    return found


def _from_position(found: list[Stretch], begin: int | Mapping[str, int]) -> list[Stretch]:
    """Return what lies at a position and after it, on all lanes or on those that are named."""
    lanes = sorted({one.lane for one in found})
    named = dict.fromkeys(map(str, lanes), begin) if isinstance(begin, int) else begin
    for name in named:
        if name not in map(str, lanes):
            _refuse(f"from_position.{name}", f"this is no lane: there are {', '.join(map(str, lanes))}")
    return [
        replace(one, after=min(max(one.after, named[str(one.lane)] - 1), one.upto))
        for one in found
        if str(one.lane) in named
    ]


def call_of(task: str, asked: Asked, *, unique_key: str | None = None) -> Call:
    """Return the call of the task that does what is asked for."""
    given: dict[str, Any] = msgspec.to_builtins(asked.selection)
    return Call(
        task=task,
        args=msgspec.Raw(msgspec.json.encode({"subscription": asked.name} | given)),
        queue=QUEUE,
        max_attempts=ATTEMPTS,
        unique_key=unique_key,
        tags=(f"subscription:{asked.name}",),
    )


def _refuse(field: str, message: str) -> NoReturn:
    text = f"{field}: {message}"
    raise InvalidInputError(text, (FieldError(field, message),))
