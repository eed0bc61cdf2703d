"""`GET /v1/jobs/{id}/history`: a job's way through the states.

Owns this route. The way is told the oldest first, as it went; every state with its time, and for how long.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from litestar import Request, Router, get

from headrace.api.door import door_of
from headrace.api.paging import DEFAULT_LIMIT, Cursor, Limit, Page, page_of
from headrace.cursors import place_of
from headrace.errors import FieldError, InvalidInputError
from headrace.jobs.history import Move, history_of


@get("/{job_id:uuid}/history", summary="A job's way through the states")
async def find_history(
    request: Request[Any, Any, Any], job_id: UUID, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[Move]:
    """Return the states that a job was in, the oldest first: since when, and for how many seconds.

    `seconds` counts up to now for the state that an unfinished job is in, and is null for the end of a finished one.
    """
    async with door_of(request).record.engine.connect() as connection:
        found = await history_of(connection, job_id, limit=limit + 1, after=_time_of(cursor))
    return page_of(found, limit, lambda move: move.at.isoformat())


def _time_of(cursor: str | None) -> datetime | None:
    place = place_of(cursor)
    try:
        return None if place is None else datetime.fromisoformat(place)
    except ValueError as error:
        message = "this is no cursor of ours: give back `next_cursor` as it came"
        raise InvalidInputError(message, (FieldError("cursor", message),)) from error


history_routes = Router(path="/v1/jobs", route_handlers=[find_history], tags=["Jobs"])
