"""`headrace subscriptions preview`: how many of yesterday's events a subscription would have been given.

Owns what it prints. It reads the log within the bounds of the API's preview, and its JSON is the API's. The types of
the loaded applications say how the data of older versions are read.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import click
import msgspec

from headrace.commands.moments import read_moment
from headrace.commands.operating import operate, operator_settings
from headrace.commands.shown import echo_json, echo_table, json_option, moment
from headrace.errors import InvalidInputError
from headrace.events.filters import Filter
from headrace.events.patterns import checked
from headrace.events.preview import Preview, Wish, preview, window_of
from headrace.resources import build_registry

_COLUMNS: Final = ("TYPE", "MATCHED", "OF")


@click.command(
    "preview",
    help="Count the events of a time that is over, yesterday by default, which a subscription to TYPES would have been "
    "given. TYPES are event types and patterns such as 'orders.*'.",
)
@click.argument("types", nargs=-1, required=True)
@click.option("--filter", "asked", default=None, metavar="JSON", help="what the data have to be")
@click.option(
    "--from",
    "from_time",
    default=None,
    metavar="TIME",
    callback=read_moment,
    help="events recorded at this time or later",
)
@click.option(
    "--to", "to_time", default=None, metavar="TIME", callback=read_moment, help="events recorded before this time"
)
@json_option
def preview_(
    types: tuple[str, ...], asked: str | None, from_time: datetime | None, to_time: datetime | None, *, as_json: bool
) -> None:
    """Print what would have matched."""
    try:
        wish = Wish(
            types=tuple(checked(pattern) for pattern in types),
            filter=None if asked is None else Filter.of(_json(asked)),
            window=window_of(from_time, to_time),
        )
    except InvalidInputError as error:
        raise click.UsageError(str(error)) from error
    events = build_registry(operator_settings()).events
    found = operate(lambda record: preview(record, events, wish))
    if as_json:
        echo_json(found)
    else:
        _echo(found)


def _json(written: str) -> object:
    try:
        return msgspec.json.decode(written)
    except msgspec.DecodeError as error:
        message = f"the filter is not JSON: {error}"
        raise click.BadParameter(message, param_hint="--filter") from error


def _echo(found: Preview) -> None:
    rows = [(kind, count.matched, count.of) for kind, count in found.by_type.items()]
    echo_table(_COLUMNS, rows, empty="no event type meets these patterns")
    click.echo(
        f"{found.matched} of all {found.of} events from {moment(found.looked_from)} to {moment(found.to_time)} match"
    )
    if found.cut:
        click.echo(f"{found.cut}: ask for a shorter time to count them all", err=True)
    if found.unknown_fields:
        click.echo(f"no declared type has the field {' or '.join(found.unknown_fields)}", err=True)
    if found.examples:
        click.echo(f"such as {' '.join(map(str, found.examples[:3]))}: `headrace events show` shows one")
