"""The shapes of events on record: what running code has last declared of each version of each type.

Owns `event_schemas`. Whoever accepts or handles events writes there at its start what it declares, so that code which
is to be deployed can be compared with the code that runs. A version that is no longer declared stays. Never read an
event by these: only declared types decode.
"""

from __future__ import annotations

from collections.abc import Iterable

import asyncpg
import msgspec

from headrace.events.registry import EventType
from headrace.events.shapes import Schema, schema_of

_RECORD = """
    INSERT INTO event_schemas (type, version, schema)
    SELECT * FROM unnest($1::text[], $2::smallint[], $3::jsonb[]) AS given(type, version, schema) ORDER BY 1, 2
    ON CONFLICT (type, version) DO UPDATE SET schema = excluded.schema, recorded_at = now()
        WHERE event_schemas.schema IS DISTINCT FROM excluded.schema
"""


async def record_schemas(connection: asyncpg.Connection[asyncpg.Record], events: Iterable[EventType]) -> None:
    """Put the shapes of declared types on record."""
    declared = list(events)
    if declared:
        await connection.execute(
            _RECORD,
            [event.type for event in declared],
            [event.version for event in declared],
            [msgspec.json.encode(schema_of(event)).decode() for event in declared],
        )


async def schemas_on_record(connection: asyncpg.Connection[asyncpg.Record]) -> dict[str, dict[int, Schema]]:
    """Return the shapes on record, by type and version."""
    found: dict[str, dict[int, Schema]] = {}
    for name, version, schema in await connection.fetch("SELECT type, version, schema::text FROM event_schemas"):
        found.setdefault(name, {})[version] = msgspec.json.decode(schema)
    return found
