"""Whom does a changed event type break?

Owns the comparison of the types that this code declares with those on record: what running code declared, what the log
holds, and who listens. A change within one version, a version that nobody can read any more, a type that is gone: each
is told with the names of the subscriptions and webhooks that it breaks. Nothing is locked and nothing is changed. Never
call a change breaking because it is one: what only adds or widens is nobody's concern.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import asyncpg

from headrace.events.changes import breaking_changes
from headrace.events.check import KIND, Subscribed
from headrace.events.listeners import Listener, listeners
from headrace.events.patterns import matches
from headrace.events.registry import EventType
from headrace.events.schemas import schemas_on_record
from headrace.events.shapes import Schema, has_field, schema_of
from headrace.jobs.check import Fault, Findings, portions

_WEBHOOK: Final = "webhook"

_OF_VERSION: Final = "SELECT id::text FROM event_log WHERE type = $1 AND version = $2 ORDER BY id DESC"

_Recorded = Mapping[str, Mapping[int, Schema]]


async def check_types(
    connection: asyncpg.Connection[asyncpg.Record],
    declared: Mapping[str, EventType],
    subscribed: Subscribed,
    findings: Findings,
) -> int:
    """Check every type on record, in the caller's transaction; return how many there are."""
    recorded = await schemas_on_record(connection)
    webhooks = [one for one in await listeners(connection) if one.kind == _WEBHOOK]
    listening = {name: one.patterns for name, one in subscribed.items() if one.reading is not None}
    listening |= {one.name: one.patterns for one in webhooks}
    for name, versions in recorded.items():
        if (event := declared.get(name)) is not None:
            who = [one for one, patterns in listening.items() if matches(patterns, name)] or [name]
            _check_shape(findings, event, versions, who)
            await _check_versions(connection, findings, event, versions)
    for webhook in webhooks:
        _check_webhook(findings, webhook, declared, recorded)
    return len(recorded)


def _check_shape(findings: Findings, event: EventType, versions: Mapping[int, Schema], who: Sequence[str]) -> None:
    """Compare a version of this code with what running code declared of the same version."""
    former = versions.get(event.version)
    for change in breaking_changes(former, schema_of(event)) if former is not None else ():
        message = f"{event.type}, still version {event.version}: {change}; publish a new version, with an upcast"
        for name in who:
            findings.add(KIND, name, Fault.CHANGED_EVENT_TYPE, message, example=event.type)


async def _check_versions(
    connection: asyncpg.Connection[asyncpg.Record],
    findings: Findings,
    event: EventType,
    versions: Mapping[int, Schema],
) -> None:
    """Look in the log for events of versions that this code does not read."""
    for version in versions:
        if event.oldest <= version <= event.version:
            continue
        newer = version > event.version
        fault = Fault.NEWER_EVENT if newer else Fault.UNREAD_VERSION
        wants = "deliveries of them wait" if newer else "upcast them, or no replay, rebuild or history reads them"
        message = f"version {version} is in the log, and this code reads {event.readable}: {wants}"
        async for portion in portions(connection, _OF_VERSION, event.type, version):
            for (example,) in portion:
                findings.add(KIND, event.type, fault, message, example=example)


def _check_webhook(
    findings: Findings, webhook: Listener, declared: Mapping[str, EventType], recorded: _Recorded
) -> None:
    """Tell what a webhook waits for in vain: a type that is gone, a field that its filter asks for."""
    present = [event for name, event in declared.items() if matches(webhook.patterns, name)]
    former = {name: versions for name, versions in recorded.items() if matches(webhook.patterns, name)}
    for pattern in webhook.patterns:
        gone = [name for name in former if matches((pattern,), name) and name not in declared]
        if gone and not any(matches((pattern,), event.type) for event in present):
            message = f"it listens to {pattern}: {', '.join(sorted(gone))} is declared no more"
            findings.add(KIND, webhook.name, Fault.DEAD_EVENT_TYPE, message, example=pattern)
    for path in _vanished(webhook, present, former):
        message = f"its filter asks for {path}, which no event that it listens to has any more"
        findings.add(KIND, webhook.name, Fault.VANISHED_FIELD, message, example=path)


def _vanished(webhook: Listener, present: Sequence[EventType], former: _Recorded) -> Iterator[str]:
    schemas = [schema_of(event) for event in present]
    before = [schema for versions in former.values() for schema in versions.values()]
    for path in sorted(webhook.filter.fields if webhook.filter is not None else ()):
        had = any(has_field(schema, path) for schema in before)
        if had and schemas and not any(has_field(schema, path) for schema in schemas):
            yield path
