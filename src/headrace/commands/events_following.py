"""`headrace events tail`: events as they come, from the record alone.

Owns how they are printed: a line for each, or with `--json` a JSON document on each line, the API's form. It asks the
record five times a second while it follows, so it needs no Redis, no API and no key; while PostgreSQL is away it waits
and goes on after the last event that it has printed. SIGINT, SIGTERM and a reader that closes the pipe end it quietly.
"""

from __future__ import annotations

import os
import re
import sys
from datetime import datetime, timedelta
from typing import Final

import click
import msgspec

from headrace.clock import now
from headrace.commands.moments import WRITTEN, moment_of
from headrace.commands.operating import explained, operator_settings
from headrace.commands.running import run_until_stopped
from headrace.commands.shown import moment, one_line
from headrace.database.away import DRIVER_ERRORS, is_away
from headrace.errors import InvalidInputError
from headrace.events.filters import Filter
from headrace.events.model import RecordedEvent
from headrace.events.reading import Reading
from headrace.events.showing import shown_on_its_way
from headrace.live.index import wants
from headrace.live.listener import Interest
from headrace.live.log import Log, open_log
from headrace.live.marks import Marks
from headrace.loops import Stop
from headrace.resources import build_registry
from headrace.settings import Settings
from headrace.telemetry.logs import OPERATOR, configure_logging

_LOOK_SECONDS: Final = 0.2
_AWAY_SECONDS: Final = 1.0
_AGO: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class _Since(click.ParamType[datetime]):
    """A time in RFC 3339, or how long ago: `90s`, `10m`, `2h`, `1d`."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the time that is meant."""
        if isinstance(value, datetime):
            return value
        try:
            if ago := _AGO.fullmatch(str(value)):
                return now() - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
            return moment_of(str(value))
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time: {WRITTEN}; or how long ago, as 90s, 10m, 2h or 1d", param, ctx)


@click.command(
    help="Print events as they come, those of a type or PATTERN (`orders.*`) if one is given, until it is interrupted. "
    "It reads the record: Redis and the API may be away."
)
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@click.option("--since", type=_Since(), default=None, help="begin with events of that time; 10m is ten minutes ago")
@click.option("--subject", default=None, help="only events of this subject")
@click.option("--filter", "filter_text", default=None, metavar="JSON", help="only events with such data")
@click.option("--no-follow", is_flag=True, help="end with what is on record already")
@click.option("--json", "as_json", is_flag=True, help="a JSON document on each line, in the shape of the API's answer")
def tail(  # noqa: PLR0913 - one argument for each option
    patterns: tuple[str, ...],
    since: datetime | None,
    subject: str | None,
    filter_text: str | None,
    *,
    no_follow: bool,
    as_json: bool,
) -> None:
    """Print events as they come."""
    try:
        chosen = None if filter_text is None else Filter.of(msgspec.json.decode(filter_text))
        interest = Interest.of(patterns, subject=subject, filter=chosen)
    except (InvalidInputError, msgspec.DecodeError) as error:
        raise click.UsageError(str(error)) from error
    settings = operator_settings()
    configure_logging(msgspec.structs.replace(settings, log_level="error"), OPERATOR)
    following = _Following(settings, interest, as_json=as_json)
    try:
        run_until_stopped(lambda stop: following.run(stop, since, follow=not no_follow))
    except BrokenPipeError:  # `… | head`: what is still buffered has no reader either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Following:
    """Prints what an interest is in."""

    def __init__(self, settings: Settings, interest: Interest, *, as_json: bool) -> None:
        self._settings = settings
        self._interest = interest
        self._reading = Reading(build_registry(settings).events.values())
        self._as_json = as_json
        self._marks = Marks()

    async def run(self, stop: Stop, since: datetime | None, *, follow: bool) -> None:
        """Print until `stop` is set, or what is on record is printed."""
        async with open_log(self._settings.database_url) as log:
            with explained(self._settings):
                self._marks = await (log.present() if since is None else log.since(since))
            while not stop.is_set():
                try:
                    await self._print(log, stop)
                except DRIVER_ERRORS as error:
                    if not is_away(error) or isinstance(error, BrokenPipeError):
                        raise
                    await stop.wait(_AWAY_SECONDS)
                    continue
                if not follow or await stop.wait(_LOOK_SECONDS):
                    return

    async def _print(self, log: Log, stop: Stop) -> None:
        """Print what follows the marks."""
        patterns = self._interest.patterns
        while not stop.is_set() and (portion := await log.read(self._marks, patterns=patterns)) is not None:
            if portion.missed:
                click.echo("events in between are no longer on record", err=True)
            for event in portion.events:
                if wants(self._interest, self._reading, event):
                    click.echo(self._line(event))
            self._marks = portion.marks

    def _line(self, event: RecordedEvent) -> str:
        if self._as_json:
            return shown_on_its_way(event).decode()
        plain = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in event.data)
        return f"{moment(event.time)}  {event.type}  {event.subject or '–'}  {one_line(plain, 200)}"
