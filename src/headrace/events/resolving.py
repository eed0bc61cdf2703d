"""Which of the declared event types a subscription listens to.

Owns the step from what a subscription names, types and patterns, to the types of the loaded applications, and the check
that it can ever be called: a pattern that meets no type, a type that nobody lists and a filter on a field that no type
has are mistakes of spelling, and stop the process at its start with what was probably meant. `*` alone meets whatever
there is, also nothing. Never look at the record here: it may know types of other code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Final

from headrace.errors import ConfigurationError
from headrace.events.filters import Filter
from headrace.events.patterns import matches
from headrace.events.registry import EventType
from headrace.events.shapes import has_field, paths_of, schema_of

EVERYTHING: Final = "*"


def resolved(told: str, patterns: Iterable[str], events: Mapping[str, EventType]) -> tuple[EventType, ...]:
    """Return the declared types that patterns meet, each once; `told` names the subscription in messages.

    Raises:
        ConfigurationError: one of them meets none.

    """
    found: dict[str, EventType] = {}
    for pattern in patterns:
        met = {name: event for name, event in events.items() if matches((pattern,), name)}
        if not met and pattern != EVERYTHING:
            likely = _likely(pattern, events)
            if EVERYTHING in pattern:
                message = f"{told} listens to {pattern}, which no declared event type meets{likely}"
            else:
                message = f"{told} listens to {pattern}, which no application lists{likely}"
            raise ConfigurationError(message)
        found |= met
    return tuple(found.values())


def check_filter(told: str, asked: Filter, events: Iterable[EventType]) -> None:
    """Check that some of the types have each field that a filter asks for.

    Raises:
        ConfigurationError: none of them has one.

    """
    schemas = [schema_of(event) for event in events]
    for path in sorted(asked.fields):
        if schemas and not any(has_field(schema, path) for schema in schemas):
            known = sorted({known for schema in schemas for known in paths_of(schema)})
            message = f"{told} filters by {path}, a field that none of its events has{_instead(path, known)}"
            raise ConfigurationError(message)


def _likely(pattern: str, events: Iterable[str]) -> str:
    return _instead(pattern, sorted(events))


def _instead(given: str, known: list[str]) -> str:
    close = get_close_matches(given, known, n=3, cutoff=0.4)
    return f"; did you mean {' or '.join(close)}?" if close else ""
