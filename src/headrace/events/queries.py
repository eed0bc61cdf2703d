"""What the record says about events: one, a page of them, the history of a subject, and who has handled what.

Owns the read side of the event road. Reads never lock. Whether a subscription has handled an event follows from the
inbox, from the job that a failing delivery became, and, for a projection, from its checkpoint: nothing is asked of
Redis. Never look an event up by anything that has no index.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.clock import first_id_at
from headrace.database.record import Record
from headrace.errors import NotFoundError
from headrace.events.filters import Filter
from headrace.events.lane import COLUMNS
from headrace.events.model import RecordedEvent
from headrace.events.patterns import like
from headrace.events.reading import Reading


class DeliveryState(StrEnum):
    """How an event stands with one subscription."""

    PENDING = "pending"
    HANDLED = "handled"
    RETRYING = "retrying"
    DEAD = "dead"
    SKIPPED = "skipped"


class DeliveryStatus(msgspec.Struct, frozen=True):
    """One subscription's delivery of an event."""

    subscription: str
    state: DeliveryState
    attempts: int
    job_id: UUID | None
    trace_id: str | None
    last_error: str | None


class Event(msgspec.Struct, frozen=True):
    """An event on record; `data` and `attributes` are JSON, `position` is None until the relay has given one."""

    id: UUID
    type: str
    version: int
    source: str
    source_id: str
    subject: str | None
    time: datetime
    created_at: datetime
    data: msgspec.Raw
    attributes: msgspec.Raw
    trace_id: str
    traceparent: str
    lane: int
    position: int | None


class EventFilter(msgspec.Struct, frozen=True):
    """Which events are meant; None does not filter. In `type`, `*` stands for any characters."""

    type: str | None = None
    subject: str | None = None
    from_time: datetime | None = None
    trace_id: str | None = None


_EVENT = """
    SELECT e.id, e.type, e.version, e.source, e.source_id, e.subject, e.time, e.created_at, e.data::text AS data,
           e.attributes::text AS attributes, e.trace_id, e.traceparent,
           coalesce(l.lane, e.slot % (SELECT count(*) FROM lanes)) AS lane, l.position
    FROM event_log AS e LEFT JOIN lane_log AS l ON l.event_id = e.id
"""

_ONE = text(_EVENT + "WHERE e.id = :id")

_BY_PRODUCER = text("SELECT id FROM event_log WHERE source_id = :source_id ORDER BY id LIMIT 1")

_HISTORY = text(
    _EVENT + "WHERE e.subject = :subject AND (CAST(:until AS timestamptz) IS NULL OR e.time <= :until) ORDER BY e.id"
)

_RECORDED = text(f"""
    SELECT {COLUMNS}
    FROM event_log AS e
    LEFT JOIN lane_log AS l ON l.event_id = e.id
    CROSS JOIN LATERAL (
        SELECT coalesce(l.lane, e.slot % (SELECT count(*) FROM lanes)) AS lane, coalesce(l.position, 0) AS position
    ) AS placed
    WHERE e.id = :id
""")  # noqa: S608 - the columns are ours

# A job's state says how a delivery goes on; what has neither job nor inbox row waits, and so
# does what is behind its key; the rest waits unless the checkpoint is past it.
# Webhooks have the checkpoint of their fan-out, and their deliveries are jobs from the beginning.
_DELIVERIES = text("""
    SELECT s.name, s.kind, s.filter::text AS filter, c.position, c.last_error, i.event_id IS NOT NULL AS entered,
           behind.event_id IS NOT NULL AS waits,
           c.position IS NULL AND NOT EXISTS (SELECT FROM lanes WHERE lane = :lane) AS gone,
           coalesce(d.job_id, sent.id) AS job_id, j.state, j.attempt, j.trace_id AS job_trace_id,
           failed.message AS job_error
    FROM subscriptions AS s
    LEFT JOIN webhooks AS hook ON s.kind = 'webhook' AND s.name = 'webhook:' || hook.id
    LEFT JOIN checkpoints AS c ON c.lane = :lane
        AND c.subscription = CASE WHEN s.kind = 'webhook' THEN 'headrace.webhooks' ELSE s.name END
    LEFT JOIN inbox AS i ON i.subscription = s.name AND i.event_id = :id
    LEFT JOIN deliveries AS d ON d.subscription = s.name AND d.event_id = :id
    LEFT JOIN waiting_events AS behind ON behind.subscription = s.name AND behind.event_id = :id
    LEFT JOIN LATERAL (
        SELECT id FROM webhook_deliveries
        WHERE event_id = :id AND webhook_id = hook.id AND replay_id IS NULL ORDER BY id DESC LIMIT 1) AS sent ON true
    LEFT JOIN jobs AS j ON j.id = coalesce(d.job_id, sent.id)
    LEFT JOIN LATERAL (
        SELECT type || ': ' || message AS message FROM job_attempts
        WHERE job_id = j.id ORDER BY fence DESC, attempt DESC LIMIT 1) AS failed ON true
    WHERE type_matches(:type, s.types) AND s.name <> 'headrace.webhooks'
      AND (s.kind <> 'webhook' OR sent.id IS NOT NULL OR (hook.enabled AND coalesce(
          CAST(:position AS bigint) > coalesce(CAST(hook.begins ->> CAST(:lane AS text) AS bigint), 0), true)))
    ORDER BY s.name
""")


async def event_by_id(record: Record, event_id: UUID) -> Event:
    """Return one event.

    Raises:
        NotFoundError: there is none with this id.

    """
    async with record.engine.connect() as connection:
        row = (await connection.execute(_ONE, {"id": event_id})).first()
    if row is None:
        message = f"there is no event {event_id}"
        raise NotFoundError(message)
    return _event(row)


async def find_event(record: Record, given: str) -> Event:
    """Return one event, by the record's id or the producer's; where it could be either, the record's wins.

    Raises:
        NotFoundError: there is none with this id.

    """
    identity = _as_uuid(given)
    if identity is not None:
        try:
            return await event_by_id(record, identity)
        except NotFoundError:
            pass  # it may be a producer's id that is not the record's
    async with record.engine.connect() as connection:
        found = (await connection.execute(_BY_PRODUCER, {"source_id": given})).scalar_one_or_none()
    if found is None:
        message = f"there is no event {given}"
        raise NotFoundError(message)
    return await event_by_id(record, found)


def _as_uuid(given: str) -> UUID | None:
    try:
        return UUID(given)
    except ValueError:
        return None


async def recorded_event(connection: AsyncConnection, event_id: UUID) -> RecordedEvent | None:
    """Return an event as subscribers are given it, None where it is not on record."""
    row = (await connection.execute(_RECORDED, {"id": event_id})).first()
    return None if row is None else RecordedEvent(*row)


async def deliveries_of(record: Record, event: Event, reading: Reading | None = None) -> list[DeliveryStatus]:
    """Return how the event stands with every subscription that listens to its type.

    Filters are asked of its data as `reading` makes them, those of the present version; without it, of the record's.
    """
    parameters = {"id": event.id, "type": event.type, "lane": event.lane, "position": event.position}
    async with record.engine.connect() as connection:
        rows = (await connection.execute(_DELIVERIES, parameters)).all()
    return [_delivery(event, row, reading) for row in rows]


async def list_events(record: Record, chosen: EventFilter, *, limit: int, before: UUID | None = None) -> list[Event]:
    """Return a page of events, newest first, those made before the event `before`."""
    query, parameters = _listing(chosen, before)
    async with record.engine.connect() as connection:
        rows = (await connection.execute(query, parameters | {"limit": limit})).all()
    return [_event(row) for row in rows]


async def history_of(connection: AsyncConnection, subject: str, *, until: datetime | None = None) -> list[Event]:
    """Return all events of a subject up to a time, oldest first: what its state is folded from."""
    rows = await connection.execute(_HISTORY, {"subject": subject, "until": until})
    return [_event(row) for row in rows]


def _listing(chosen: EventFilter, before: UUID | None) -> tuple[TextClause, dict[str, Any]]:
    wanted: dict[str, tuple[str, Any]] = {
        "type": ("e.type LIKE :type", None if chosen.type is None else like(chosen.type)),
        "subject": ("e.subject = :subject", chosen.subject),
        "trace_id": ("e.trace_id = :trace_id", chosen.trace_id),
        "first": ("e.id >= :first", None if chosen.from_time is None else first_id_at(chosen.from_time)),
        "before": ("e.id < :before", before),
    }
    given = {name: value for name, (_, value) in wanted.items() if value is not None}
    where = "".join(f" AND {wanted[name][0]}" for name in given)
    return text(f"{_EVENT} WHERE true{where} ORDER BY e.id DESC LIMIT :limit"), given


def _event(row: Row[Any]) -> Event:
    values = row._asdict()
    return Event(**values | {name: msgspec.Raw(values[name].encode()) for name in ("data", "attributes")})


_OF_JOB = {
    None: DeliveryState.HANDLED,  # its job has left the record, long after its end
    "succeeded": DeliveryState.HANDLED,
    "dead": DeliveryState.DEAD,
    "cancelled": DeliveryState.SKIPPED,
    "expired": DeliveryState.SKIPPED,
}


def _delivery(event: Event, row: Row[Any], reading: Reading | None) -> DeliveryStatus:
    """Say how one subscription stands with an event."""
    if row.job_id is not None:
        begun = row.kind != "webhook" or row.job_error is not None
        state = _OF_JOB.get(row.state, DeliveryState.RETRYING if begun else DeliveryState.PENDING)
        attempts = row.attempt or int(begun)
        return DeliveryStatus(row.name, state, attempts, row.job_id, row.job_trace_id, row.job_error)
    passed = event.position is not None and row.position is not None and row.position >= event.position
    if row.filter is not None and not row.entered and not _meets(row.filter, event, reading):
        return DeliveryStatus(row.name, DeliveryState.SKIPPED, 0, None, None, None)
    if row.entered or (passed and row.kind == "projection"):
        return DeliveryStatus(row.name, DeliveryState.HANDLED, 1, None, event.trace_id, None)
    if row.waits:  # behind its key: the checkpoint has passed it
        return DeliveryStatus(row.name, DeliveryState.PENDING, 0, None, None, None)
    if passed or row.gone:  # of a lane that there was before the subscription
        return DeliveryStatus(row.name, DeliveryState.SKIPPED, 0, None, None, None)
    waits = row.last_error is not None and event.position == (row.position or 0) + 1
    state = DeliveryState.RETRYING if waits else DeliveryState.PENDING
    return DeliveryStatus(row.name, state, int(waits), None, None, row.last_error if waits else None)


def _meets(written: str, event: Event, reading: Reading | None) -> bool:
    asked = Filter.of(msgspec.json.decode(written))
    return asked.matches(bytes(event.data).decode()) if reading is None else reading.meets(asked, event)
