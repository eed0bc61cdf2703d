"""Are the events under way still valid for this code?

Owns the question for what is accepted and not handled yet: events between a subscription's checkpoint and the head of
their lane, those without a position, those that wait behind a held key, and failed deliveries that are tried again as
jobs. Each is read as the subscription of this code would read it, if its filter means it. Nothing is locked and nothing
is changed; events that everybody has handled are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import asyncpg
import msgspec

from headrace.events.filters import Filter
from headrace.events.patterns import matches
from headrace.events.reading import Reading, UnknownEventError, UnreadableEventError
from headrace.jobs.check import UNFINISHED, Fault, Findings, portions

KIND: Final = "event"


@dataclass(frozen=True, slots=True)
class Listening:
    """What a subscription of this code listens to, and how it reads it; without `reading` it takes any data."""

    patterns: tuple[str, ...]
    reading: Reading | None
    filter: Filter | None = None


Subscribed = Mapping[str, Listening]
"""The subscriptions of this code, by name."""

_PLACES: Final = """
    SELECT s.name, s.types, c.lane, c.position FROM subscriptions s JOIN checkpoints c ON c.subscription = s.name
"""

_EVENT: Final = "e.id::text, e.type, e.version, e.data::text"

_UNHANDLED: Final = f"""
    SELECT {_EVENT}, l.lane, l.position
    FROM (SELECT lane, min(position) AS position FROM checkpoints GROUP BY lane) AS c
    JOIN lane_log l ON l.lane = c.lane AND l.position > c.position
    JOIN event_log e ON e.id = l.event_id
    UNION ALL
    SELECT {_EVENT}, NULL, NULL FROM outbox o JOIN event_log e ON e.id = o.event_id
"""  # noqa: S608 - a constant of ours

_REDELIVERED: Final = f"""
    SELECT {_EVENT}, j.args::jsonb ->> 'subscription'
    FROM ({UNFINISHED}) AS j
    JOIN event_log e ON e.id = CAST(j.args::jsonb ->> 'event_id' AS uuid)
    WHERE j.task = $1
    UNION ALL
    SELECT {_EVENT}, w.subscription FROM waiting_events w JOIN event_log e ON e.id = w.event_id
"""  # noqa: S608 - constants of ours; the value is a parameter


class _Event(msgspec.Struct, frozen=True):
    """An event that somebody has yet to handle."""

    id: str
    type: str
    version: int
    data: str


class _Place:
    """How far a subscription on record has come, and what it listened to."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self.patterns = patterns
        self.positions: dict[int, int] = {}

    def waits_for(self, event: _Event, lane: int | None, position: int | None) -> bool:
        passed = lane is not None and position is not None and position <= self.positions.get(lane, 0)
        return not passed and matches(self.patterns, event.type)


async def check_events(
    connection: asyncpg.Connection[asyncpg.Record], subscribed: Subscribed, findings: Findings
) -> int:
    """Check every event that some subscription has yet to handle, in the caller's transaction; return how many."""
    places: dict[str, _Place] = {}
    for name, patterns, lane, position in await connection.fetch(_PLACES):
        places.setdefault(name, _Place(tuple(patterns))).positions[lane] = position
    checked = 0
    async for portion in portions(connection, _UNHANDLED):
        for *columns, lane, position in portion:
            event = _Event(*columns)
            waiting = [name for name, place in places.items() if place.waits_for(event, lane, position)]
            for name in waiting:
                _check(findings, subscribed, name, event)
            checked += bool(waiting)
    return checked


async def check_redeliveries(
    connection: asyncpg.Connection[asyncpg.Record], subscribed: Subscribed, findings: Findings, *, task: str
) -> None:
    """Check the events of unfinished jobs of the redelivering task and of held keys, in the caller's transaction."""
    async for portion in portions(connection, _REDELIVERED, task):
        for *columns, name in portion:
            _check(findings, subscribed, name, _Event(*columns))


def _check(findings: Findings, subscribed: Subscribed, name: str, event: _Event) -> None:
    listening = subscribed.get(name)
    if listening is None:
        message = "no application of this code has this subscription"
        findings.add(KIND, name, Fault.UNKNOWN_SUBSCRIPTION, message, example=event.id)
    elif not matches(listening.patterns, event.type):
        message = f"it listens to {event.type} no more, and has such events to handle"
        findings.add(KIND, name, Fault.UNKNOWN_EVENT_TYPE, message, example=event.id)
    elif listening.reading is not None:
        _read(findings, name, listening, event)


def _read(findings: Findings, name: str, listening: Listening, event: _Event) -> None:
    reading = listening.reading
    if reading is None or (listening.filter is not None and not reading.meets(listening.filter, event)):
        return
    try:
        reading.data_of(event)
    except UnreadableEventError as error:
        findings.add(KIND, name, Fault.UNREADABLE_EVENT, str(error), example=event.id)
    except UnknownEventError as error:
        findings.add(KIND, name, Fault.NEWER_EVENT, f"{error}: it would wait", example=event.id)
