"""Events from outside enter the log here, as CloudEvents 1.0 (https://github.com/cloudevents/spec, JSON format).

Owns the way from a CloudEvent to a `NewEvent`: the type must be declared, the data must fit it, in the present version
or in an older one that this code can read, the subject is the ordering key, extension attributes are kept. The same
`source` and `id` twice is one event, however often and wherever it is sent: a ledger of the producers' ids decides, in
the transaction that appends the event. Never trust a producer's id to be unique over all producers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Final, NoReturn
from uuid import UUID

import asyncpg
import msgspec
from sqlalchemy import text

from headrace.clock import new_id, now
from headrace.errors import FieldError, InvalidInputError
from headrace.events.log import MAX_DATA_BYTES
from headrace.events.model import NewEvent
from headrace.events.registry import EventType
from headrace.transaction import Transaction

_UUID7: Final = 7
_PAST_MS: Final = 24 * 3600 * 1000
_FUTURE_MS: Final = 60 * 1000
_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC)

_CLAIM = text("""
    INSERT INTO event_keys (source, source_id, event_id)
    SELECT * FROM unnest(CAST(:sources AS text[]), CAST(:ids AS text[]), CAST(:event_ids AS uuid[]))
    ON CONFLICT DO NOTHING RETURNING source, source_id
""")

_KNOWN = text("""
    SELECT k.source, k.source_id, k.event_id
    FROM unnest(CAST(:sources AS text[]), CAST(:ids AS text[])) AS given(source, source_id)
    JOIN event_keys AS k ON k.source = given.source AND k.source_id = given.source_id
""")

_TAKEN = text("SELECT id FROM event_log WHERE id = ANY(CAST(:ids AS uuid[]))")

# Two producers with the same ids: one loses, or, with several in another order, PostgreSQL ends one of them.
_RACED: Final = (asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError)

Short = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]


class Attributes(msgspec.Struct, frozen=True, kw_only=True):
    """A CloudEvent 1.0; extension attributes stand beside these."""

    specversion: Annotated[str, msgspec.Meta(pattern=r"^1\.0$", description="1.0")]
    id: Annotated[Short, msgspec.Meta(description="unique for the source: the same source and id twice is one event")]
    source: Short
    type: Short
    subject: Annotated[Short | None, msgspec.Meta(description="the ordering key")] = None
    time: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    datacontenttype: Annotated[str, msgspec.Meta(pattern=r"^application/json(;.*)?$")] = "application/json"
    dataschema: Annotated[str, msgspec.Meta(max_length=2000)] | None = None
    data: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))


class Content(msgspec.Struct, frozen=True):
    """The data of an event from outside: as they are kept, of some version, and read as the present one."""

    version: int
    encoded: bytes
    present: msgspec.Struct


def event_of(
    attributes: Attributes, extensions: Mapping[str, msgspec.Raw], declared: EventType, content: Content
) -> NewEvent:
    """Make the event that a CloudEvent is recorded as.

    Raises:
        InvalidInputError: the time is out of bounds, or the data exceed 256 KiB.

    """
    if attributes.time is not None and not _EARLIEST <= attributes.time <= _LATEST:
        _refuse("time", "this must lie between the years 1970 and 9999")
    if len(content.encoded) > MAX_DATA_BYTES:
        _refuse("data", f"these take more than {MAX_DATA_BYTES} bytes: pass a reference")
    kept = dict(extensions) | ({"dataschema": attributes.dataschema} if attributes.dataschema else {})
    return NewEvent(
        id=_record_id(attributes.id),
        type=declared.type,
        version=content.version,
        source=attributes.source,
        source_id=attributes.id,
        subject=attributes.subject or declared.subject_of(content.present),
        time=attributes.time or now(),
        data=msgspec.Raw(content.encoded),
        attributes=msgspec.Raw(msgspec.json.encode(kept)),
    )


async def publish_from_outside(tx: Transaction, events: Sequence[NewEvent]) -> list[UUID]:
    """Publish events that are not on record yet, in their order; return the record's ids of all of them."""
    if not any(str(event.id) == event.source_id for event in events):
        return await _publish(tx, events)  # the ids are ours, and nobody else's
    try:
        async with tx.connection.begin_nested():
            return await _publish(tx, await _with_free_ids(tx, events))
    except _RACED:  # another producer has put the same id on record since we looked
        return await _publish(tx, [msgspec.structs.replace(event, id=new_id()) for event in events])


async def _publish(tx: Transaction, events: Sequence[NewEvent]) -> list[UUID]:
    first: dict[tuple[str, str], NewEvent] = {}
    for event in events:
        first.setdefault(_key(event), event)
    # in one order for all: two batches that insert the same keys in another order would deadlock
    keys = sorted(first)
    columns = {"sources": [source for source, _ in keys], "ids": [identity for _, identity in keys]}
    event_ids = [first[key].id for key in keys]
    claimed = {
        (row.source, row.source_id) for row in await tx.connection.execute(_CLAIM, columns | {"event_ids": event_ids})
    }
    ids = {key: event.id for key, event in first.items()}
    if len(claimed) < len(keys):
        known = await tx.connection.execute(_KNOWN, columns)
        ids |= {(row.source, row.source_id): row.event_id for row in known}
    await tx.publish_events([event for key, event in first.items() if key in claimed])
    return [ids[_key(event)] for event in events]


async def _with_free_ids(tx: Transaction, events: Sequence[NewEvent]) -> list[NewEvent]:
    """Give a new id to events whose own id is another event's, or another one's of this batch."""
    taken = set((await tx.connection.execute(_TAKEN, {"ids": [event.id for event in events]})).scalars())
    free: list[NewEvent] = []
    for event in events:
        free.append(msgspec.structs.replace(event, id=new_id()) if event.id in taken else event)
        taken.add(event.id)
    return free


def _record_id(given: str) -> UUID:
    """Return the producer's id where it is a UUIDv7 of about now, and so fits the order of the log; else a new one."""
    try:
        identity = UUID(given)
    except ValueError:
        return new_id()
    age_ms = time.time_ns() // 1_000_000 - (identity.int >> 80)
    written = str(identity) == given  # a UUID can be written in several ways; only this one is an id of the record
    fits = written and identity.version == _UUID7 and -_FUTURE_MS <= age_ms <= _PAST_MS
    return identity if fits else new_id()


def _key(event: NewEvent) -> tuple[str, str]:
    return event.source, event.source_id


def _refuse(field: str, message: str) -> NoReturn:
    text = f"{field}: {message}"
    raise InvalidInputError(text, (FieldError(field, message),))
