"""Events enter the record here, in the caller's transaction.

Owns the one INSERT into `event_log` and, beside it, the `outbox` pointer that the relay looks for. Both are written
by one statement, any number of events at a time, in the order given. A rolled-back transaction leaves neither. Never
write to Redis here: the record decides, the belt carries.
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
import msgspec

from headrace.clock import new_id, now
from headrace.errors import InvalidInputError
from headrace.events.model import NewEvent
from headrace.events.registry import event_type_of
from headrace.telemetry.propagation import trace_id_of

MAX_DATA_BYTES = 256 * 1024

_APPEND_ONE = """
    WITH logged AS (
        INSERT INTO event_log (id, type, version, source, source_id, subject, slot, time, data, attributes,
                               trace_id, traceparent)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10::jsonb, $11, $12))
    INSERT INTO outbox (slot, event_id) VALUES ($7, $1)
"""

_APPEND_MANY = """
    WITH given AS (
        SELECT r.value AS e, r.ordinality AS place
        FROM jsonb_array_elements($1::jsonb) WITH ORDINALITY AS r),
    logged AS (
        INSERT INTO event_log (id, type, version, source, source_id, subject, slot, time, data, attributes,
                               trace_id, traceparent)
        SELECT CAST(e ->> 'id' AS uuid), e ->> 'type', CAST(e ->> 'version' AS smallint), e ->> 'source',
               e ->> 'source_id', e ->> 'subject', CAST(e ->> 'slot' AS smallint),
               CAST(e ->> 'time' AS timestamptz), e -> 'data', e -> 'attributes', $2, $3
        FROM given)
    INSERT INTO outbox (slot, event_id)
    SELECT CAST(e ->> 'slot' AS smallint), CAST(e ->> 'id' AS uuid) FROM given ORDER BY place
"""


def new_event(data: msgspec.Struct) -> NewEvent:
    """Make the event that a declared value is published as.

    Raises:
        ConfigurationError: its class was not declared with `@event`.
        InvalidInputError: it is not JSON, or over 256 KiB.

    """
    declared = event_type_of(type(data))
    try:
        encoded = msgspec.json.encode(data)
    except (TypeError, ValueError) as error:
        message = f"the data of {declared.type} cannot be written as JSON: {error}"
        raise InvalidInputError(message) from error
    if len(encoded) > MAX_DATA_BYTES:
        message = f"the data of {declared.type} take {len(encoded)} bytes, more than {MAX_DATA_BYTES}: pass a reference"
        raise InvalidInputError(message)
    identity = new_id()
    return NewEvent(
        id=identity,
        type=declared.type,
        version=declared.version,
        source=declared.source,
        source_id=str(identity),
        subject=declared.subject_of(data),
        time=now(),
        data=msgspec.Raw(encoded),
    )


async def append_events(
    driver: asyncpg.Connection[asyncpg.Record], events: Sequence[NewEvent], traceparent: str
) -> None:
    """Append events in their order, with the trace context they were created in; an empty sequence does nothing."""
    if len(events) == 1:
        await driver.execute(_APPEND_ONE, *_columns(events[0]), trace_id_of(traceparent), traceparent)
    elif events:
        rows = msgspec.json.encode([_row(event) for event in events]).decode()
        await driver.execute(_APPEND_MANY, rows, trace_id_of(traceparent), traceparent)


def _row(event: NewEvent) -> dict[str, object]:
    return msgspec.structs.asdict(event) | {"slot": event.slot}


def _columns(event: NewEvent) -> tuple[object, ...]:
    return (
        event.id,
        event.type,
        event.version,
        event.source,
        event.source_id,
        event.subject,
        event.slot,
        event.time,
        bytes(event.data).decode(),
        bytes(event.attributes).decode(),
    )
