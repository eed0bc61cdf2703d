"""Fire what is due: the ledger row, the job and the next due time, in one transaction.

Owns the tick. Due schedules are taken in batches, oldest first, skipping those that another clock has in its hands; the
ledger's primary key (schedule, due time) decides who fires, whatever a clock believes: ten clocks fire once. The time
is the record's own. A crash at any instruction leaves the schedule due, and the next tick, of whichever clock, does it;
a clock that is stopped with schedules in its hands loses its session after three seconds, and they are due again.
A schedule whose task this code does not know is left to a clock that does. Never trust ARQ to tick once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import msgspec
import structlog

from headrace.application import Registry
from headrace.cron import ledger
from headrace.cron.due import parse_cron
from headrace.cron.ledger import LastFire, Taken
from headrace.cron.policy import CATCH_UP_LIMIT, Decision, Due, RunOutcome, decide
from headrace.database.record import Bell, Record
from headrace.errors import InvalidInputError
from headrace.jobs.call import Call, Options
from headrace.jobs.insert import NewJob, insert_new_jobs
from headrace.jobs.schedule import Misfire, Overlap
from headrace.telemetry.spans import enqueue, enqueued, tick
from headrace.transaction import Transaction, transaction

logger = structlog.get_logger(__name__)

TIMES: Final = 1000
"""How many due times of one schedule are decided in one tick; the rest waits for the next tick."""


class _Fire(NamedTuple):
    """A due time that this clock fires."""

    schedule: Taken
    due_at: datetime
    job_id: UUID


async def fire_due(record: Record, registry: Registry) -> int:
    """Fire every schedule that is due by the record's clock; return how many due times were decided."""
    seen: set[str] = set()
    decided = 0
    while True:
        async with transaction(record) as tx:
            taken = await ledger.take_due(tx.connection, tasks=registry.names, seen=seen)
            decided += await _fire(tx, registry, taken)
        seen |= {schedule.name for schedule in taken}
        if len(taken) < ledger.SCHEDULES:
            return decided


async def _fire(tx: Transaction, registry: Registry, taken: Sequence[Taken]) -> int:
    last = await ledger.last_fires(tx.connection, [schedule.name for schedule in taken])
    next_due: dict[str, datetime | None] = {}
    rows: list[ledger.Row] = []
    for schedule in taken:
        due, next_due[schedule.name] = _look(schedule, last.get(schedule.name))
        decisions = decide(due) if due else []
        _tell_missed(schedule.name, decisions)
        rows += [ledger.Row(schedule, decision) for decision in decisions]
    won = await ledger.write(tx.connection, rows)
    fires = [_Fire(schedule, one.due_at, one.job_id) for schedule, one in rows if one.job_id and one.job_id in won.jobs]
    await _enqueue(tx, registry, fires, last)
    await ledger.advance(tx.connection, next_due)
    return won.number


def _look(schedule: Taken, last: LastFire | None) -> tuple[Due | None, datetime | None]:
    """Return the due times of a schedule that are to be decided now, if any, and when it is due next."""
    try:
        cron = parse_cron(schedule.cron, schedule.timezone)
    except InvalidInputError as error:  # such as a zone that the installed tzdata does not have
        logger.error("schedule_stopped", schedule=schedule.name, reason=str(error))  # noqa: TRY400 - the message says it all
        return None, None
    times = cron.between(schedule.next_due_at, schedule.now, limit=TIMES + 1)
    if not times:
        return None, cron.next_after(schedule.now)
    more = len(times) > TIMES
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


async def _enqueue(tx: Transaction, registry: Registry, fires: Sequence[_Fire], last: Mapping[str, LastFire]) -> None:
    """Enqueue the jobs of fires in one statement, each in a trace of its own, linked to the fire before."""
    if not fires:
        return
    tx.bells.add(Bell.JOBS)
    previous = {name: run.traceparent for name, run in last.items()}
    new: list[NewJob] = []
    for schedule, due_at, job_id in fires:
        call = _call_of(schedule, registry)
        with tick(schedule.name, due_at, previous=previous.get(schedule.name)), enqueue([call]) as scope:
            enqueued(scope, [job_id])
            previous[schedule.name] = scope.traceparent
        new.append(NewJob(job_id, call, scope.traceparent))
    placed = await insert_new_jobs(tx.connection, new)
    for fire, job_id in zip(fires, placed, strict=True):
        if job_id != fire.job_id:
            await ledger.join(tx.connection, fire.schedule.name, fire.due_at, job_id=job_id)


def _call_of(schedule: Taken, registry: Registry) -> Call:
    """Return the call with the arguments on record, and how the code that declared it wants it to run."""
    args = msgspec.Raw(schedule.args.encode())
    declared = registry.schedules.get(schedule.name)
    if declared is not None and declared.call.task == schedule.task:
        return msgspec.structs.replace(declared.call, args=args)
    return registry.names[schedule.task].call_encoded(args, Options())


def _tell_missed(schedule: str, decisions: Sequence[Decision]) -> None:
    missed = [decision for decision in decisions if decision.outcome is not RunOutcome.FIRED]
    if missed:
        caught_up = sum(decision.outcome is RunOutcome.CAUGHT_UP for decision in missed)
        first = missed[0].due_at.isoformat()
        logger.warning("schedule_not_met", schedule=schedule, due=len(missed), caught_up=caught_up, first_due_at=first)
