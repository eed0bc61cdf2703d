"""Fire what is due: the ledger row, the job and the next due time, in one transaction.

Owns the tick. Due schedules are taken in batches, oldest first, skipping those that another clock has in its hands; the
ledger's primary key (schedule, due time) decides who fires, whatever a clock believes: ten clocks fire once. The time
is the record's own. A crash at any instruction leaves the schedule due, and the next tick, of whichever clock, does it;
a clock that is stopped with schedules in its hands loses its session after three seconds, and they are due again.
A schedule whose task this code does not know is left to a clock that does. Never trust ARQ to tick once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.application import Registry
from headrace.cron.due import parse_cron
from headrace.cron.policy import CATCH_UP_LIMIT, Decision, Due, RunOutcome, decide
from headrace.database.record import Record
from headrace.errors import InvalidInputError
from headrace.jobs.call import Call, Options
from headrace.jobs.schedule import Misfire, Overlap
from headrace.telemetry.spans import tick
from headrace.transaction import Transaction, transaction

logger = structlog.get_logger(__name__)

SCHEDULES: Final = 100
"""How many schedules are fired in one transaction."""

TIMES: Final = 5000
"""How many due times of one schedule are decided in one tick; the rest waits for the next tick."""

_LOSE_IF_STOPPED: Final = text("SET LOCAL idle_in_transaction_session_timeout = '3s'")

# Plan: index scan of schedules_due, whose rows are few unless clocks were away.
_TAKE: Final = text("""
    SELECT name, cron, timezone, task, CAST(args AS text) AS args, misfire, overlap, next_due_at, now() AS now
    FROM schedules
    WHERE enabled AND next_due_at <= now()
      AND task = ANY (CAST(:tasks AS text[])) AND name <> ALL (CAST(:seen AS text[]))
    ORDER BY next_due_at LIMIT :limit FOR UPDATE SKIP LOCKED
""")

_LAST: Final = text("""
    SELECT s.name, j.id AS job_id, j.traceparent,
           j.state IN ('scheduled', 'pending', 'queued', 'running', 'retrying') AS unfinished
    FROM unnest(CAST(:names AS text[])) AS s(name)
    CROSS JOIN LATERAL (
        SELECT r.job_id FROM schedule_runs r
        WHERE r.schedule = s.name AND r.job_id IS NOT NULL ORDER BY r.due_at DESC LIMIT 1) AS run
    JOIN jobs j ON j.id = run.job_id
""")

_WRITE: Final = text("""
    INSERT INTO schedule_runs (schedule, due_at, outcome, reason, job_id)
    SELECT :schedule, d.due_at, d.outcome, d.reason, d.job_id
    FROM unnest(CAST(:times AS timestamptz[]), CAST(:outcomes AS text[]), CAST(:reasons AS text[]),
                CAST(:jobs AS uuid[])) AS d(due_at, outcome, reason, job_id)
    ON CONFLICT DO NOTHING RETURNING due_at
""")

_JOIN: Final = text("""
    UPDATE schedule_runs SET job_id = :job_id, reason = :reason WHERE schedule = :schedule AND due_at = :due_at
""")

_ADVANCE: Final = text("""
    UPDATE schedules SET next_due_at = n.next_due_at
    FROM unnest(CAST(:names AS text[]), CAST(:times AS timestamptz[])) AS n(name, next_due_at)
    WHERE schedules.name = n.name
""")


class _Taken(msgspec.Struct, frozen=True):
    """A due schedule, locked by this transaction."""

    name: str
    cron: str
    timezone: str
    task: str
    args: str
    misfire: str
    overlap: str
    next_due_at: datetime
    now: datetime


class _LastFire(msgspec.Struct, frozen=True):
    """The job of a schedule's last fire, as far as it is still on record."""

    job_id: UUID
    traceparent: str
    unfinished: bool


async def fire_due(record: Record, registry: Registry) -> int:
    """Fire every schedule that is due by the record's clock; return how many due times were decided."""
    seen: set[str] = set()
    decided = 0
    while True:
        async with transaction(record) as tx:
            taken = await _take(tx.connection, registry, seen)
            decided += await _fire(tx, registry, taken)
        seen |= {schedule.name for schedule in taken}
        if len(taken) < SCHEDULES:
            return decided


async def _fire(tx: Transaction, registry: Registry, taken: Sequence[_Taken]) -> int:
    last = await _last_fires(tx.connection, [schedule.name for schedule in taken])
    next_due: dict[str, datetime | None] = {}
    decided = 0
    for schedule in taken:
        due, next_due[schedule.name] = _look(schedule, last.get(schedule.name))
        decisions = decide(due) if due else []
        won = await _write(tx.connection, schedule.name, decisions)
        fires = [decision for decision in decisions if decision.job_id and decision.due_at in won]
        await _enqueue(tx, schedule.name, _call_of(schedule, registry), fires, last.get(schedule.name))
        _tell_missed(schedule.name, decisions)
        decided += len(won)
    await _advance(tx.connection, next_due)
    return decided


def _look(schedule: _Taken, last: _LastFire | None) -> tuple[Due | None, datetime | None]:
    """Return the due times of a schedule that are to be decided now, if any, and when it is due next."""
    try:
        cron = parse_cron(schedule.cron, schedule.timezone)
    except InvalidInputError as error:  # such as a zone that the installed tzdata does not have
        logger.error("schedule_stopped", schedule=schedule.name, reason=str(error))  # noqa: TRY400 - the message says it all
        return None, None
    times = cron.between(schedule.next_due_at, schedule.now, limit=TIMES + 1)
    more = len(times) > TIMES
    if not times:
        return None, cron.next_after(schedule.now)
    kept = times[: TIMES - CATCH_UP_LIMIT] if more else times
    due = Due(
        times=kept,
        more=more,
        now=schedule.now,
        misfire=Misfire(schedule.misfire),
        overlap=Overlap(schedule.overlap),
        busy_with=last.job_id if last and last.unfinished else None,
    )
    return due, times[len(kept)] if more else cron.next_after(kept[-1])


def _call_of(schedule: _Taken, registry: Registry) -> Call:
    """Return the call with the arguments on record, and how the code that declared it wants it to run."""
    args = msgspec.Raw(schedule.args.encode())
    declared = registry.schedules.get(schedule.name)
    if declared is not None and declared.call.task == schedule.task:
        return msgspec.structs.replace(declared.call, args=args)
    return registry.tasks[schedule.task].call_encoded(args, Options())


async def _enqueue(
    tx: Transaction, schedule: str, call: Call, fires: Sequence[Decision], last: _LastFire | None
) -> None:
    previous = last.traceparent if last else None
    for fire in fires:
        with tick(schedule, fire.due_at, previous=previous) as scope:
            (job_id,) = await tx.enqueue_calls([call], ids=[fire.job_id] if fire.job_id else None)
            previous = scope.traceparent
        if job_id != fire.job_id:
            reason = f"joined: the unfinished job {job_id} holds the unique key"
            key = {"schedule": schedule, "due_at": fire.due_at}
            await tx.connection.execute(_JOIN, {**key, "job_id": job_id, "reason": reason})
        logger.debug("schedule_fired", schedule=schedule, due_at=fire.due_at.isoformat(), job=str(job_id))


def _tell_missed(schedule: str, decisions: Sequence[Decision]) -> None:
    missed = [decision for decision in decisions if decision.outcome is not RunOutcome.FIRED]
    if missed:
        caught_up = sum(decision.outcome is RunOutcome.CAUGHT_UP for decision in missed)
        first = missed[0].due_at.isoformat()
        logger.warning("schedule_not_met", schedule=schedule, due=len(missed), caught_up=caught_up, first_due_at=first)


async def _take(connection: AsyncConnection, registry: Registry, seen: Collection[str]) -> list[_Taken]:
    await connection.execute(_LOSE_IF_STOPPED)
    parameters = {"tasks": sorted(registry.tasks), "seen": sorted(seen), "limit": SCHEDULES}
    return [_Taken(*row) for row in await connection.execute(_TAKE, parameters)]


async def _last_fires(connection: AsyncConnection, names: Sequence[str]) -> dict[str, _LastFire]:
    """Read after the locks were taken: what another clock fired before is seen."""
    if not names:
        return {}
    rows = await connection.execute(_LAST, {"names": names})
    return {name: _LastFire(*rest) for name, *rest in rows}


async def _write(connection: AsyncConnection, schedule: str, decisions: Sequence[Decision]) -> set[datetime]:
    """Write the ledger; return the due times that were this clock's to decide."""
    if not decisions:
        return set()
    rows = await connection.execute(
        _WRITE,
        {
            "schedule": schedule,
            "times": [decision.due_at for decision in decisions],
            "outcomes": [decision.outcome.value for decision in decisions],
            "reasons": [decision.reason for decision in decisions],
            "jobs": [decision.job_id for decision in decisions],
        },
    )
    return set(rows.scalars())


async def _advance(connection: AsyncConnection, next_due: Mapping[str, datetime | None]) -> None:
    if next_due:
        await connection.execute(_ADVANCE, {"names": list(next_due), "times": list(next_due.values())})
