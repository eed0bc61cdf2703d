"""How an event stands in the replays that have given it again.

Owns that question. Live deliveries are told by `queries`, and no replay changes what is said there; a replay is listed
from the moment at which it has dealt with the event. Never count a replay's delivery as the live one.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import Row, text

from headrace.database.record import Record
from headrace.database.states import JobState
from headrace.events.queries import DeliveryState, Event

_REPLAYS: Final = text("""
    SELECT r.subscription, r.job_id AS replay, coalesce(d.job_id, w.id) AS job_id, j.state, j.attempt, j.trace_id,
           failed.message AS error
    FROM replays AS r
    JOIN replay_lanes AS l ON l.job_id = r.job_id AND l.lane = :lane AND :position > l.begins_after
        AND :position <= l.upto
    CROSS JOIN LATERAL (SELECT r.subscription || '@' || r.job_id AS name OFFSET 0) AS scope
    LEFT JOIN inbox AS i ON i.subscription = scope.name AND i.event_id = :id
    LEFT JOIN deliveries AS d ON d.subscription = scope.name AND d.event_id = :id
    LEFT JOIN LATERAL (SELECT id FROM webhook_deliveries WHERE event_id = :id AND replay_id = r.job_id
                       ORDER BY id DESC LIMIT 1) AS w ON true
    LEFT JOIN jobs AS j ON j.id = coalesce(d.job_id, w.id)
    LEFT JOIN LATERAL (
        SELECT type || ': ' || message AS message FROM job_attempts
        WHERE job_id = j.id ORDER BY fence DESC, attempt DESC LIMIT 1) AS failed ON true
    WHERE r.shadow IS NULL AND (i.event_id IS NOT NULL OR d.job_id IS NOT NULL OR w.id IS NOT NULL)
    ORDER BY r.job_id
""")

_OF_JOB: Final = {
    JobState.SUCCEEDED: DeliveryState.HANDLED,
    JobState.DEAD: DeliveryState.DEAD,
    JobState.CANCELLED: DeliveryState.SKIPPED,
    JobState.EXPIRED: DeliveryState.SKIPPED,
}


class ReplayStatus(msgspec.Struct, frozen=True):
    """One replay's delivery of an event."""

    subscription: str
    replay: UUID
    """The job of the replay."""
    state: DeliveryState
    attempts: int
    job_id: UUID | None
    """The job that the delivery became, where its first attempt failed; a webhook's is one from the beginning."""
    trace_id: str | None
    last_error: str | None


async def replays_of(record: Record, event: Event) -> list[ReplayStatus]:
    """Return how the event stands in each replay that has dealt with it, the oldest first."""
    if event.position is None:
        return []
    parameters = {"id": event.id, "lane": event.lane, "position": event.position}
    async with record.engine.connect() as connection:
        return [_status(row) for row in await connection.execute(_REPLAYS, parameters)]


def _status(row: Row[Any]) -> ReplayStatus:
    if row.job_id is None or row.state is None:
        return ReplayStatus(row.subscription, row.replay, DeliveryState.HANDLED, 1, None, None, None)
    state = _OF_JOB.get(row.state, DeliveryState.RETRYING)
    return ReplayStatus(row.subscription, row.replay, state, row.attempt or 1, row.job_id, row.trace_id, row.error)
