"""When a schedule is due: a cron expression in a time zone.

Owns the syntax (five fields, six with seconds first, or `@hourly` and friends; Debian cron's, by cronsim), its
validation, and one rule for daylight saving. An expression whose minute and hour are both fixed means the clock on the
wall: a time that is skipped in spring comes as soon as the gap is over, one that is repeated in autumn comes the first
time only. Any other expression follows the time that passes: in the skipped hour nothing is due, the repeated hour
counts twice.
Never look at the clock here: every function is told the time.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice, takewhile
from typing import Final, NoReturn
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from headrace.errors import FieldError, InvalidInputError

NICKNAMES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
"""What Debian's cron understands instead of five fields."""

_FIELDS: Final = {
    "second": "0-59",
    "minute": "0-59",
    "hour": "0-23",
    "day-of-month": "1-31, L for the last day or LW for the last weekday, and a day that its month has",
    "month": "1-12 or JAN-DEC",
    "day-of-week": "0-7 or SUN-SAT, 5L for the last Friday, 5#2 for the second Friday",
}
_FIVE: Final = 5
_SIX: Final = 6
_LONGEST: Final = 200
_SAMPLE: Final = datetime(2026, 1, 1, tzinfo=UTC)
_MINUTE: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression in a time zone. Make it with `parse_cron`."""

    fields: str
    """Five or six fields."""
    zone: tzinfo
    on_the_wall: bool
    """Whether minute and hour are fixed, and so mean the clock on the wall."""

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first due time after an aware moment, in UTC; None where none comes within 50 years."""
        return next(self._after(moment), None)

    def between(self, first: datetime, until: datetime, *, limit: int) -> list[datetime]:
        """Return the due times from `first` to `until`, both inclusive, oldest first, at most `limit` of them."""
        times = self._after(first - timedelta(seconds=1))
        due = (at for at in takewhile(lambda at: at <= until, times) if at >= first)
        return list(islice(due, limit))

    def _after(self, moment: datetime) -> Iterator[datetime]:
        """Yield the due times after `moment`, strictly rising, in UTC."""
        last = moment.astimezone(UTC)
        local = moment.astimezone(self.zone)
        for found in CronSim(self.fields, local.replace(tzinfo=None) if self.on_the_wall else local):
            at = self._real(found) if self.on_the_wall else found.astimezone(UTC)
            if at > last:
                yield at
                last = at

    def _real(self, wall: datetime) -> datetime:
        """Return when the clock on the wall first shows this time, or first goes on after having skipped it."""
        at = wall.replace(tzinfo=self.zone)
        while at.astimezone(UTC).astimezone(self.zone).replace(tzinfo=None) != at.replace(tzinfo=None):
            at += _MINUTE
        return at.astimezone(UTC)


def parse_cron(expression: str, timezone: str = "UTC") -> Cron:
    """Read a cron expression that is meant in an IANA time zone.

    Raises:
        InvalidInputError: one of them does not fit; the message says what would.

    Example:
        >>> parse_cron("30 3 * * MON", "Europe/Athens").next_after(datetime(2026, 11, 20, tzinfo=UTC))
        datetime.datetime(2026, 11, 23, 1, 30, tzinfo=datetime.timezone.utc)

    """
    zone = _zone(timezone)
    fields = _fields(expression)
    parts = fields.split()
    minute, hour = parts[-5], parts[-4]
    cron = Cron(fields, zone, on_the_wall=not minute.startswith("*") and not hour.startswith("*"))
    try:
        never = cron.next_after(_SAMPLE) is None
    except CronSimError as error:
        _refuse("cron", f"{expression!r} does not fit: {_mend(str(error))}", error)
    if never:
        _refuse("cron", f"{expression!r} is never due: give a day that one of its months has")
    return cron


def _fields(expression: str) -> str:
    text = expression.strip()
    if len(text) > _LONGEST:
        _refuse("cron", f"has {len(text)} characters, more than {_LONGEST}: use ranges and steps")
    if text.startswith("@"):
        if text.lower() not in NICKNAMES:
            _refuse("cron", f"{expression!r} is not known: give one of {', '.join(NICKNAMES)}, or fields")
        return NICKNAMES[text.lower()]
    if (count := len(text.split())) not in {_FIVE, _SIX}:
        fields = "minute hour day-of-month month day-of-week, with seconds before them if need be"
        _refuse("cron", f"{expression!r} has {count} fields, not five or six: {fields}")
    return text


def _mend(problem: str) -> str:
    """Turn cronsim's "Bad minute" into what the minute may be."""
    name = problem.removeprefix("Bad ")
    allowed = _FIELDS.get(name)
    return f"{name} must be {allowed}; lists 1,2, ranges 1-5 and steps */5 may be used" if allowed else problem


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    if len(name) > _LONGEST:
        _refuse("timezone", "is too long: give a name of the IANA database, such as Europe/Athens")
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: a directory of zones, such as "Europe"
        near = difflib.get_close_matches(name, available_timezones(), n=1)
        mend = f"did you mean {near[0]}?" if near else "give a name of the IANA database, such as Europe/Athens"
        _refuse("timezone", f"{name!r} is not known: {mend}", error)


def _refuse(field: str, problem: str, cause: Exception | None = None) -> NoReturn:
    message = f"the {field} {problem}"
    raise InvalidInputError(message, (FieldError(field, message),)) from cause
