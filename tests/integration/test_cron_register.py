"""Code-defined schedules enter the record."""

from __future__ import annotations

import asyncio

import pytest

from headrace.cron.register import register_schedules
from headrace.database.record import Record
from headrace.errors import ConfigurationError
from headrace.jobs.schedule import Misfire, Schedule
from tests.clock import registry_of, rows, work


def nightly(cron: str = "0 3 * * *", note: str = "night", misfire: Misfire = Misfire.ONCE) -> Schedule:
    """Return a schedule that the tests change."""
    return Schedule("clock.nightly", cron=cron, call=work.call(note), timezone="Europe/Athens", misfire=misfire)


async def test_a_schedule_is_on_record_when_code_declares_it(record: Record) -> None:
    """The row says what is called, when next, and that code declares it."""
    await register_schedules(record, registry_of(nightly()))

    (row,) = await rows(
        record, "SELECT name, cron, timezone, task, args, enabled, misfire, overlap, origin FROM schedules"
    )
    ((next_hour,),) = await rows(
        record, "SELECT date_part('hour', next_due_at AT TIME ZONE 'Europe/Athens') FROM schedules"
    )
    assert tuple(row) == (
        "clock.nightly", "0 3 * * *", "Europe/Athens", "clock.work", {"note": "night"}, True, "once", "allow", "code",
    )  # fmt: skip
    assert next_hour == 3


async def test_what_was_missed_stays_due_when_a_clock_starts_again(record: Record) -> None:
    """An unchanged schedule keeps its next due time, although that has passed."""
    await register_schedules(record, registry_of(nightly()))
    await rows(record, "UPDATE schedules SET next_due_at = '2026-01-01T01:00:00Z'")

    await register_schedules(record, registry_of(nightly(note="another", misfire=Misfire.ALL)))

    ((args, misfire, kept),) = await rows(record, "SELECT args, misfire, next_due_at < now() FROM schedules")
    assert (args, misfire, kept) == ({"note": "another"}, "all", True)


async def test_the_next_due_time_is_new_when_the_expression_has_changed(record: Record) -> None:
    """The old due time means nothing under the new expression."""
    await register_schedules(record, registry_of(nightly()))
    await rows(record, "UPDATE schedules SET next_due_at = '2026-01-01T01:00:00Z'")

    await register_schedules(record, registry_of(nightly(cron="0 4 * * *")))

    ((cron, upcoming),) = await rows(record, "SELECT cron, next_due_at > now() FROM schedules")
    assert (cron, upcoming) == ("0 4 * * *", True)


async def test_a_pause_holds_when_the_code_is_deployed_again(record: Record) -> None:
    """`enabled` is the operator's, whatever else changes."""
    await register_schedules(record, registry_of(nightly()))
    await rows(record, "UPDATE schedules SET enabled = false")

    await register_schedules(record, registry_of(nightly(cron="0 4 * * *")))

    assert await rows(record, "SELECT enabled, cron FROM schedules") == [(False, "0 4 * * *")]


async def test_only_our_own_are_removed_when_code_declares_them_no_more(record: Record) -> None:
    """Schedules made at run time, and those of applications that this process does not load, stay."""
    await register_schedules(record, registry_of(nightly()))
    await rows(
        record,
        "INSERT INTO schedules (name, cron, task, origin) VALUES "
        "('made', '* * * * *', 'clock.work', 'api'), ('others', '* * * * *', 'elsewhere.work', 'code')",
    )

    await register_schedules(record, registry_of())

    assert await rows(record, "SELECT name FROM schedules ORDER BY name") == [("made",), ("others",)]


async def test_there_is_one_row_when_many_clocks_start_at_once(record: Record) -> None:
    """Registration may run anywhere, any number of times, at the same time."""
    registry = registry_of(nightly(), *(Schedule(f"clock.{n}", cron="@daily", call=work.call("n")) for n in range(20)))

    await asyncio.gather(*(register_schedules(record, registry) for _ in range(8)))

    assert await rows(record, "SELECT count(*) FROM schedules") == [(21,)]


@pytest.mark.parametrize(
    "schedule", [nightly(cron="0 25 * * *"), Schedule("clock.x", "@daily", work.call("x"), "Mars/Base")]
)
async def test_the_clock_refuses_to_start_when_an_expression_does_not_fit(record: Record, schedule: Schedule) -> None:
    """The message names the schedule and what would be right; nothing is half registered."""
    with pytest.raises(ConfigurationError, match=schedule.name):
        await register_schedules(record, registry_of(Schedule("clock.a", cron="@daily", call=work.call("a")), schedule))

    assert await rows(record, "SELECT name FROM schedules") == []
