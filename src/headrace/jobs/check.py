"""Are the jobs and schedules on record still valid for this code?

Owns the question that is asked before a deploy: each unfinished job and each stored schedule is decoded as a worker of
this code would decode it. What does not fit is grouped by task and reason, with counts and a few names. One snapshot is
read in portions, so a million jobs need no more memory than a thousand. Nothing is locked and nothing is changed.
Never say that something breaks because it is stale: a finished job is nobody's concern here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from enum import StrEnum
from typing import Final

import asyncpg
import msgspec

PORTION: Final = 2000
MOST_EXAMPLES: Final = 5
MOST_GROUPS: Final = 200
"""Different messages that are told apart; further ones of a task count under a common one."""

Decode = Callable[[str], object]
"""Decodes arguments or data as the code would; raises what msgspec raises where they do not fit."""

_REFUSALS: Final = (msgspec.MsgspecError, ValueError, RecursionError)

# The states stand literally, one partial index each: a record of many finished jobs is not read for a few unfinished.
UNFINISHED: Final = """
    SELECT id::text, task, args::text FROM jobs WHERE state = 'pending' AND NOT parked
    UNION ALL SELECT id::text, task, args::text FROM jobs WHERE state = 'pending' AND parked
    UNION ALL SELECT id::text, task, args::text FROM jobs WHERE state IN ('scheduled', 'retrying') AND waits_for = 0
    UNION ALL SELECT id::text, task, args::text FROM jobs WHERE state = 'scheduled' AND waits_for > 0
    UNION ALL SELECT id::text, task, args::text FROM jobs WHERE state IN ('queued', 'running')
"""

_SCHEDULES = """
    SELECT name, task, args::text FROM schedules WHERE origin <> 'code' OR name <> ALL ($1::text[])
"""


class Fault(StrEnum):
    """Why something on record is not valid any more."""

    UNKNOWN_TASK = "unknown_task"
    UNREADABLE_ARGUMENTS = "unreadable_arguments"
    UNKNOWN_SUBSCRIPTION = "unknown_subscription"
    UNKNOWN_EVENT_TYPE = "unknown_event_type"
    UNREADABLE_EVENT = "unreadable_event"
    NEWER_EVENT = "newer_event"
    CHANGED_EVENT_TYPE = "changed_event_type"
    DEAD_EVENT_TYPE = "dead_event_type"
    UNREAD_VERSION = "unread_version"
    VANISHED_FIELD = "vanished_field"


class Finding(msgspec.Struct, frozen=True):
    """What breaks, and how much of it there is."""

    kind: str
    """`job`, `schedule` or `event`."""
    name: str
    """The task, the subscription or the event type."""
    code: Fault
    message: str
    count: int
    examples: list[str]
    """Ids of jobs and events, names of schedules: five at most."""


class Findings:
    """Gathers what breaks, by name and reason."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, Fault, str], int] = {}
        self._examples: dict[tuple[str, str, Fault, str], list[str]] = {}

    def add(self, kind: str, name: str, code: Fault, message: str, *, example: str) -> None:
        """Count one thing that breaks."""
        key = (kind, name, code, message)
        if key not in self._counts and len(self._counts) >= MOST_GROUPS:
            key = (kind, name, code, "for several other reasons")
        self._counts[key] = self._counts.get(key, 0) + 1
        examples = self._examples.setdefault(key, [])
        if len(examples) < MOST_EXAMPLES:
            examples.append(example)

    def found(self) -> list[Finding]:
        """Return what breaks, by kind and name."""
        return [Finding(*key, self._counts[key], self._examples[key]) for key in sorted(self._counts)]


async def check_jobs(
    connection: asyncpg.Connection[asyncpg.Record], decoders: Mapping[str, Decode], findings: Findings
) -> int:
    """Check every unfinished job inside the caller's transaction; return how many there are."""
    checked = 0
    async for portion in portions(connection, UNFINISHED):
        for row in portion:
            _check(findings, decoders, "job", row)
        checked += len(portion)
    return checked


async def check_schedules(
    connection: asyncpg.Connection[asyncpg.Record],
    decoders: Mapping[str, Decode],
    findings: Findings,
    *,
    declared: list[str],
) -> int:
    """Check every stored schedule but those `declared` in this code, which replaces them when it starts."""
    rows = await connection.fetch(_SCHEDULES, declared)
    for row in rows:
        _check(findings, decoders, "schedule", row)
    return len(rows)


async def portions(
    connection: asyncpg.Connection[asyncpg.Record], query: str, *arguments: object
) -> AsyncIterator[list[asyncpg.Record]]:
    """Yield what a query finds, as of one moment, in portions; the caller has begun a transaction."""
    cursor = await connection.cursor(query, *arguments)
    while portion := await cursor.fetch(PORTION):
        yield portion


def refusal_of(decode: Decode, encoded: str) -> str | None:
    """Return what is wrong with JSON in the eyes of a decoder, None where it fits."""
    try:
        decode(encoded)
    except _REFUSALS as error:
        return str(error)
    return None


def _check(findings: Findings, decoders: Mapping[str, Decode], kind: str, row: asyncpg.Record) -> None:
    example, task, args = row
    decode = decoders.get(task)
    if decode is None:
        message = "no application of this code has this task, by its name or as an alias"
        findings.add(kind, task, Fault.UNKNOWN_TASK, message, example=example)
    elif (refusal := refusal_of(decode, args)) is not None:
        findings.add(kind, task, Fault.UNREADABLE_ARGUMENTS, refusal, example=example)
