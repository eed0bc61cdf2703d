"""Are the events under way still valid for this code?

Owns the question for what is accepted and not handled yet: events between a subscription's checkpoint and the head of
their lane, those without a position, and failed deliveries that are tried again as jobs. Each is decoded as the
subscription of this code would decode it. Nothing is locked and nothing is changed; events that everybody has handled
are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import asyncpg

from headrace.jobs.check import UNFINISHED, Decode, Fault, Findings, portions, refusal_of

Subscribed = Mapping[str, Mapping[str, Decode]]
"""What the subscriptions of this code listen to, each type with the decoder of its data."""

_KIND: Final = "event"

_PLACES: Final = """
    SELECT s.name, s.types, c.lane, c.position FROM subscriptions s JOIN checkpoints c ON c.subscription = s.name
"""

_UNHANDLED: Final = """
    SELECT e.id::text, e.type, e.data::text, l.lane, l.position
    FROM (SELECT lane, min(position) AS position FROM checkpoints GROUP BY lane) AS c
    JOIN lane_log l ON l.lane = c.lane AND l.position > c.position
    JOIN event_log e ON e.id = l.event_id
    UNION ALL
    SELECT e.id::text, e.type, e.data::text, o.slot, NULL FROM outbox o JOIN event_log e ON e.id = o.event_id
"""

_REDELIVERED: Final = f"""
    SELECT e.id::text, e.type, e.data::text, j.args::jsonb ->> 'subscription'
    FROM ({UNFINISHED}) AS j
    JOIN event_log e ON e.id = CAST(j.args::jsonb ->> 'event_id' AS uuid)
    WHERE j.task = $1
"""  # noqa: S608 - a constant of ours; the value is a parameter


class _Place:
    """How far a subscription on record has come, and what it listened to."""

    def __init__(self, types: frozenset[str]) -> None:
        self.types = types
        self.positions: dict[int, int] = {}

    def waits_for(self, kind: str, lane: int, position: int | None) -> bool:
        return kind in self.types and (position is None or position > self.positions.get(lane, 0))


async def check_events(
    connection: asyncpg.Connection[asyncpg.Record], subscribed: Subscribed, findings: Findings
) -> int:
    """Check every event that some subscription has yet to handle, in the caller's transaction; return how many."""
    places: dict[str, _Place] = {}
    for name, types, lane, position in await connection.fetch(_PLACES):
        places.setdefault(name, _Place(frozenset(types))).positions[lane] = position
    checked = 0
    async for portion in portions(connection, _UNHANDLED):
        for event_id, kind, data, lane, position in portion:
            waiting = [name for name, place in places.items() if place.waits_for(kind, lane, position)]
            for name in waiting:
                _check(findings, subscribed, name, (event_id, kind, data))
            checked += bool(waiting)
    return checked


async def check_redeliveries(
    connection: asyncpg.Connection[asyncpg.Record], subscribed: Subscribed, findings: Findings, *, task: str
) -> None:
    """Check the events of unfinished jobs of the redelivering task, in the caller's transaction."""
    async for portion in portions(connection, _REDELIVERED, task):
        for event_id, kind, data, name in portion:
            _check(findings, subscribed, name, (event_id, kind, data))


def _check(findings: Findings, subscribed: Subscribed, name: str, event: tuple[str, str, str]) -> None:
    event_id, kind, data = event
    listened = subscribed.get(name)
    if listened is None:
        message = "no application of this code has this subscription"
        findings.add(_KIND, name, Fault.UNKNOWN_SUBSCRIPTION, message, example=event_id)
    elif (decode := listened.get(kind)) is None:
        message = f"it listens to {kind} no more, and has such events to handle"
        findings.add(_KIND, name, Fault.UNKNOWN_EVENT_TYPE, message, example=event_id)
    elif (refusal := refusal_of(decode, data)) is not None:
        findings.add(_KIND, name, Fault.UNREADABLE_EVENT, f"{kind}: {refusal}", example=event_id)
