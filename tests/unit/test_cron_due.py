"""When a cron expression is due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from headrace.cron.due import NICKNAMES, parse_cron
from headrace.errors import InvalidInputError

ATHENS = "Europe/Athens"
SPRING = datetime(2026, 3, 28, 22, tzinfo=UTC)
"""Midnight in Athens before the clock goes from 03:00 to 04:00, at 01:00 UTC."""
AUTUMN = datetime(2026, 10, 24, 21, tzinfo=UTC)
"""Midnight in Athens before the clock goes from 04:00 back to 03:00, at 01:00 UTC."""


def times(expression: str, timezone: str, after: datetime, number: int) -> list[str]:
    """Return the next due times in UTC, as day and time."""
    cron = parse_cron(expression, timezone)
    found = cron.between(after + timedelta(seconds=1), after + timedelta(days=3000), limit=number)
    return [f"{at:%d %H:%M:%S}" for at in found]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("*/15 * * * *", ["28 22:15:00", "28 22:30:00"]),
        ("*/20 * * * * *", ["28 22:00:20", "28 22:00:40"]),
        ("0 3 * * MON", ["30 03:00:00", "06 03:00:00"]),
        ("0 0 L * *", ["31 00:00:00", "30 00:00:00"]),
        ("@hourly", ["28 23:00:00", "29 00:00:00"]),
        ("@Daily", ["29 00:00:00", "30 00:00:00"]),
        (" 0 0 29 2 * ", ["29 00:00:00", "29 00:00:00"]),
    ],
)
def test_the_next_times_are_found_when_an_expression_fits(expression: str, expected: list[str]) -> None:
    """Five fields, six with seconds first, and the nicknames are understood."""
    assert times(expression, "UTC", SPRING, 2) == expected


def test_every_nickname_is_understood_when_it_is_read() -> None:
    """What is offered in the message of an error works."""
    assert all(parse_cron(nickname).next_after(SPRING) for nickname in NICKNAMES)


@pytest.mark.parametrize("expression", ["30 3 * * *", "0 30 3 * * *", "0 15,30 3 * * *"])
def test_a_fixed_time_comes_after_the_gap_when_the_clock_skips_it(expression: str) -> None:
    """03:30 does not exist that night: 04:00, once, takes its place; the next day it is 03:30 again."""
    first, second = times(expression, ATHENS, SPRING, 2)

    assert first == "29 01:00:00"
    assert second in {"30 00:30:00", "30 00:15:00"}


@pytest.mark.parametrize("expression", ["30 3 * * *", "0 30 3 * * *"])
def test_a_fixed_time_comes_once_when_the_clock_repeats_it(expression: str) -> None:
    """03:30 is shown twice that night: the first time counts."""
    assert times(expression, ATHENS, AUTUMN, 2) == ["25 00:30:00", "26 01:30:00"]


def test_a_fixed_time_does_not_come_again_when_the_search_begins_in_the_repeated_hour() -> None:
    """At 03:10 shown for the second time, 03:30 is over for that day."""
    repeated = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)

    assert times("30 3 * * *", ATHENS, repeated, 1) == ["26 01:30:00"]


def test_every_hour_counts_when_the_expression_has_no_fixed_hour() -> None:
    """The skipped hour is nowhere, the repeated one is there twice: one due time per hour that passes."""
    assert times("30 * * * *", ATHENS, SPRING + timedelta(hours=2), 3) == ["29 00:30:00", "29 01:30:00", "29 02:30:00"]
    assert times("30 * * * *", ATHENS, AUTUMN + timedelta(hours=3), 3) == ["25 00:30:00", "25 01:30:00", "25 02:30:00"]


def test_between_includes_both_ends_when_they_are_due() -> None:
    """The first due time and the moment of the look itself belong to what is due."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    cron = parse_cron("* * * * *")

    found = cron.between(start, start + timedelta(minutes=2), limit=10)
    limited = cron.between(start, start + timedelta(minutes=2), limit=2)

    assert found == [start, start + timedelta(minutes=1), start + timedelta(minutes=2)]
    assert limited == found[:2]


@pytest.mark.parametrize(
    ("expression", "timezone", "field", "mend"),
    [
        ("61 * * * *", "UTC", "cron", "minute must be 0-59"),
        ("* 24 * * *", "UTC", "cron", "hour must be 0-23"),
        ("* * *", "UTC", "cron", "has 3 fields, not five or six"),
        ("", "UTC", "cron", "has 0 fields"),
        ("@often", "UTC", "cron", "@hourly"),
        ("0 0 30 2 *", "UTC", "cron", "a day that its month has"),
        (",".join(["1"] * 200) + " * * * *", "UTC", "cron", "use ranges and steps"),
        ("* * * * *", "Europe/Athen", "timezone", "did you mean Europe/Athens?"),
        ("* * * * *", "Europe", "timezone", "is not known"),
        ("* * * * *", "../../etc/passwd", "timezone", "is not known"),
        ("* * * * *", "", "timezone", "IANA"),
        ("* * * * *", "x" * 300, "timezone", "is too long"),
    ],
)
def test_the_mend_is_named_when_an_expression_or_a_zone_does_not_fit(
    expression: str, timezone: str, field: str, mend: str
) -> None:
    """Whoever mistypes reads what would be right."""
    with pytest.raises(InvalidInputError) as caught:
        parse_cron(expression, timezone)

    assert caught.value.errors[0].field == field
    assert mend in str(caught.value)
