"""Firing what is due, on the real record."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from headrace.application import Registry
from headrace.cron import ledger
from headrace.cron.fire import fire_due
from headrace.cron.register import register_schedules
from headrace.database.record import Record
from headrace.jobs.call import Options
from headrace.jobs.schedule import Misfire, Overlap, Schedule
from headrace.stack import readiness
from headrace.transaction import transaction
from tests.clock import registry_of, rows, work

EVERY_HOUR = Schedule("clock.hour", cron="@hourly", call=work.call("tick"))


async def registered(record: Record, schedule: Schedule, *, due: str) -> Registry:
    """Register one schedule that was due at the full hour before this SQL time."""
    registry = registry_of(schedule)
    await register_schedules(record, registry)
    await rows(record, f"UPDATE schedules SET next_due_at = date_trunc('hour', {due})")  # noqa: S608 - our own text
    return registry


async def runs_of(record: Record) -> Sequence[Any]:
    """Return the ledger, oldest due time first."""
    return await rows(record, "SELECT outcome, due_at, reason, job_id FROM schedule_runs ORDER BY due_at")


async def test_one_clock_fires_when_ten_tick_at_once(record: Record) -> None:
    """Ten clocks look at the same due time: one ledger row, one job."""
    registry = await registered(record, EVERY_HOUR, due="now()")

    await asyncio.gather(*(fire_due(record, registry) for _ in range(10)))

    ((_, due_at, _, job_id),) = await runs_of(record)
    (job,) = await rows(record, "SELECT id, task, args, queue, priority, state FROM jobs")
    ((next_due_at,),) = await rows(record, "SELECT next_due_at FROM schedules")
    assert tuple(job) == (job_id, "clock.work", {"note": "tick"}, "slow", 7, "pending")
    assert next_due_at == due_at + timedelta(hours=1)


async def test_each_schedule_fires_once_when_there_are_more_than_a_batch_and_five_clocks(record: Record) -> None:
    """Clocks share a crowd of due schedules between them and leave none behind."""
    registry = registry_of(*(Schedule(f"clock.s{n}", cron="@hourly", call=work.call(str(n))) for n in range(250)))
    await register_schedules(record, registry)
    await rows(record, "UPDATE schedules SET next_due_at = date_trunc('hour', now())")

    decided = await asyncio.gather(*(fire_due(record, registry) for _ in range(5)))
    decided.append(await fire_due(record, registry))

    counts = await rows(record, "SELECT count(*), count(DISTINCT args) FROM jobs")
    assert sum(decided) == 250
    assert tuple(counts[0]) == (250, 250)


async def test_the_ledger_decides_when_a_due_time_was_fired_before(record: Record) -> None:
    """A clock that believes a due time is still open, for whatever reason, fires nothing twice."""
    registry = await registered(record, EVERY_HOUR, due="now()")
    await fire_due(record, registry)
    await rows(record, "UPDATE schedules SET next_due_at = next_due_at - interval '1 hour'")

    decided = await fire_due(record, registry)

    assert decided == 0
    assert len(await rows(record, "SELECT id FROM jobs")) == 1


@pytest.mark.parametrize(
    ("misfire", "expected"), [(Misfire.SKIP, "skipped"), (Misfire.ONCE, "skipped"), (Misfire.ALL, "caught_up")]
)
async def test_every_missed_time_is_on_the_ledger_when_no_clock_ran(
    record: Record, misfire: Misfire, expected: str
) -> None:
    """After five hours without a clock each due time has one row, and jobs as the policy says."""
    schedule = Schedule("clock.hour", cron="@hourly", call=work.call("tick"), misfire=misfire)
    registry = await registered(record, schedule, due="now() - interval '5 hours'")

    decided = await fire_due(record, registry)

    found = await runs_of(record)
    fired = [job_id for _, _, _, job_id in found if job_id]
    jobs = [identity for (identity,) in await rows(record, "SELECT id FROM jobs ORDER BY id")]
    assert decided == len(found) == 6
    assert {outcome for outcome, *_ in found[:5]} == {expected}
    assert {due_at for _, due_at, *_ in found} == {found[0].due_at + timedelta(hours=n) for n in range(6)}
    assert jobs == fired


async def test_a_very_long_absence_is_worked_off_in_parts_when_a_clock_is_back(record: Record) -> None:
    """Half an hour of seconds is decided over two ticks; the last hundred missed are made up for, none is forgotten."""
    schedule = Schedule("clock.second", cron="* * * * * *", call=work.call("tick"), misfire=Misfire.ALL)
    registry = await registered(record, schedule, due="now()")
    await rows(record, "UPDATE schedules SET next_due_at = date_trunc('second', now() - interval '30 minutes')")

    first = await fire_due(record, registry)
    second = await fire_due(record, registry)

    found = await runs_of(record)
    caught_up = [due_at for outcome, due_at, *_ in found if outcome == "caught_up"]
    assert first == 900
    assert len(found) == first + second >= 1800
    assert found[-1].due_at - found[0].due_at == timedelta(seconds=len(found) - 1)
    assert len(caught_up) == 100
    assert found[-1].outcome == "fired"


async def test_a_due_time_is_skipped_when_the_last_job_is_unfinished(record: Record) -> None:
    """Overlap `skip` looks at the job of the last fire on record; once that has finished the next due time fires."""
    schedule = Schedule("clock.hour", cron="@hourly", call=work.call("tick"), overlap=Overlap.SKIP)
    registry = await registered(record, schedule, due="now() - interval '1 hour'")
    await rows(record, "UPDATE schedules SET misfire = 'all'")
    await fire_due(record, registry)
    (first, second) = await runs_of(record)
    await rows(record, "UPDATE jobs SET state = 'succeeded', finished_at = now()")
    await rows(record, "DELETE FROM schedule_runs WHERE due_at = :due_at", due_at=second.due_at)
    await rows(record, "UPDATE schedules SET next_due_at = :due_at", due_at=second.due_at)

    await fire_due(record, registry)

    (_, third) = await runs_of(record)
    assert (first.outcome, second.outcome) == ("caught_up", "skipped")
    assert str(first.job_id) in second.reason
    assert third.job_id is not None


async def test_nothing_fires_when_a_schedule_is_paused(record: Record) -> None:
    """`enabled` is a column: false keeps the schedule as it is."""
    registry = await registered(record, EVERY_HOUR, due="now()")
    await rows(record, "UPDATE schedules SET enabled = false")

    decided = await fire_due(record, registry)

    assert decided == 0
    assert await runs_of(record) == []


async def test_a_schedule_is_left_to_others_when_its_task_is_unknown_here(record: Record) -> None:
    """A clock of older code neither fires nor loses what only newer code can do."""
    await registered(record, EVERY_HOUR, due="now()")
    await rows(record, "UPDATE schedules SET task = 'clock.of_tomorrow'")

    decided = await fire_due(record, registry_of())

    assert decided == 0
    ((still_due,),) = await rows(record, "SELECT next_due_at <= now() FROM schedules")
    assert still_due


async def test_a_schedule_made_at_run_time_fires_when_no_code_declares_it(record: Record) -> None:
    """Its task's own queue and priority hold."""
    await rows(
        record,
        "INSERT INTO schedules (name, cron, timezone, task, args, origin, next_due_at) "
        "VALUES ('made', '@hourly', 'UTC', 'clock.work', '{\"note\": \"api\"}', 'api', date_trunc('hour', now()))",
    )

    await fire_due(record, registry_of())

    (job,) = await rows(record, "SELECT args, queue, priority FROM jobs")
    assert tuple(job) == ({"note": "api"}, "slow", 7)


async def test_a_fire_joins_the_unfinished_job_when_its_unique_key_is_held(record: Record) -> None:
    """No second job, and the ledger names the one that does the work."""
    call = work.options(Options(unique_key="only")).call("tick")
    registry = await registered(record, Schedule("clock.u", cron="@hourly", call=call), due="now()")
    await fire_due(record, registry)
    await rows(record, "UPDATE schedule_runs SET due_at = due_at - interval '1 hour'")
    await rows(record, "UPDATE schedules SET next_due_at = date_trunc('hour', now())")

    await fire_due(record, registry)

    first, second = await runs_of(record)
    assert first.job_id == second.job_id
    assert second.reason.startswith("joined")
    assert len(await rows(record, "SELECT id FROM jobs")) == 1


async def test_another_clock_fires_when_the_one_that_took_a_schedule_is_stopped(record: Record) -> None:
    """A clock that stands still within its transaction loses it after three seconds, and with it the schedule."""
    registry = await registered(record, EVERY_HOUR, due="now()")

    async def fired() -> bool:
        return await fire_due(record, registry) == 1

    async def stand_still() -> None:
        async with transaction(record) as tx:
            assert len(await ledger.take_due(tx.connection, tasks=registry.tasks, seen=())) == 1
            assert await fire_due(record, registry) == 0
            assert await readiness.until(fired, 10)

    with pytest.raises(DBAPIError):
        await stand_still()

    assert len(await rows(record, "SELECT id FROM jobs")) == 1


async def test_the_others_fire_when_one_schedule_cannot_be_read(record: Record) -> None:
    """A row spoiled by hand is stopped, and holds up nothing."""
    registry = registry_of(EVERY_HOUR, Schedule("clock.other", cron="@hourly", call=work.call("other")))
    await register_schedules(record, registry)
    await rows(record, "UPDATE schedules SET next_due_at = date_trunc('hour', now())")
    await rows(record, "UPDATE schedules SET timezone = 'Nowhere/Land' WHERE name = 'clock.other'")

    await fire_due(record, registry)

    stopped = await rows(record, "SELECT next_due_at FROM schedules WHERE name = 'clock.other'")
    assert stopped[0][0] is None
    assert len(await runs_of(record)) == 1


async def test_each_fire_has_a_trace_of_its_own_when_several_are_made_up_for(record: Record) -> None:
    """A run can be followed from the tick to the job's last effect."""
    schedule = Schedule("clock.hour", cron="@hourly", call=work.call("tick"), misfire=Misfire.ALL)
    registry = await registered(record, schedule, due="now() - interval '2 hours'")

    await fire_due(record, registry)

    traces = [trace for (trace,) in await rows(record, "SELECT trace_id FROM jobs")]
    assert len(set(traces)) == 3
    assert all(len(trace) == 32 for trace in traces)
