"""`headrace events publish`: events from a file, from standard input, or from their parts on the command line.

Owns the three forms that are read (one CloudEvent, a JSON array of them, one on each line) and their way to the record:
they are checked as the API checks them, and all are published or none. What is wrong is named with its place in the
input, and ends the command with exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import BinaryIO, Final
from uuid import UUID

import click
import msgspec
from litestar.exceptions import ClientException

from headrace.api.bodies import decode
from headrace.api.cloudevents import MOST_EVENTS, event_of_member
from headrace.clock import new_id
from headrace.commands.operating import operate, operator_settings
from headrace.commands.shown import echo_json, json_option
from headrace.database.record import Record
from headrace.errors import InvalidInputError
from headrace.events.intake import publish_from_outside
from headrace.events.model import NewEvent
from headrace.resources import build_registry
from headrace.telemetry.setup import configure
from headrace.transaction import transaction

Member = dict[str, msgspec.Raw]

_SOURCE: Final = "/headrace/command-line"


@click.command(
    help="Publish events and print their ids: CloudEvents from FILE (- or nothing: standard input) as one JSON object, "
    "an array or one object on each line, or one event by --type, --subject and --data. All are published, or none."
)
@click.argument("file", type=click.File("rb"), required=False)
@click.option("--type", "event_type", default=None, help="the event's type")
@click.option("--subject", default=None, help="its ordering key; by default as its type declares")
@click.option("--data", default=None, metavar="JSON", help="its data, as its type declares them")
@click.option("--source", default=_SOURCE, show_default=True, help="whose event it is, with --type")
@json_option
def publish(  # noqa: PLR0913 - one argument for each option
    file: BinaryIO | None,
    event_type: str | None,
    subject: str | None,
    data: str | None,
    source: str,
    *,
    as_json: bool,
) -> None:
    """Publish events."""
    parts = {"type": event_type, "subject": subject, "data": data}
    try:
        events = _checked(_from_parts(parts, source) if _in_parts(parts, file) else _members(_read(file)))
    except (InvalidInputError, ClientException) as error:
        raise click.UsageError(str(getattr(error, "detail", error))) from error
    telemetry = configure("operator")
    try:
        ids = operate(lambda record: _publish(record, events))
    finally:
        telemetry.shutdown()
    if as_json:
        echo_json({"ids": ids})
    else:
        click.echo("\n".join(map(str, ids)))


def _in_parts(parts: dict[str, str | None], file: BinaryIO | None) -> bool:
    given = any(value is not None for value in parts.values())
    if given and file is not None:
        message = "give either FILE or --type with --subject and --data, not both"
        raise click.UsageError(message)
    return given


def _from_parts(parts: dict[str, str | None], source: str) -> list[Member]:
    """Return the one event whose parts are on the command line."""
    if parts["type"] is None:
        message = "--subject and --data belong to an event: name its --type"
        raise click.UsageError(message)
    given = {"specversion": "1.0", "id": str(new_id()), "source": source, "type": parts["type"]}
    if parts["subject"] is not None:
        given["subject"] = parts["subject"]
    member = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in given.items()}
    data = decode((parts["data"] or "{}").encode(), msgspec.Raw, at="data")
    return [member | {"data": data}]


def _read(file: BinaryIO | None) -> bytes:
    if file is not None:
        return file.read()
    if sys.stdin.isatty():
        message = "name a FILE (- is standard input), or an event by its --type"
        raise click.UsageError(message)
    return sys.stdin.buffer.read()


def _members(text: bytes) -> list[Member]:
    """Split the input into its events: by lines where it is not one JSON document."""
    if text.lstrip().startswith(b"["):
        return decode(text, list[Member])  # type: ignore[no-any-return]  # of the type that is asked for
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and all(line.lstrip().startswith(b"{") and line.rstrip().endswith(b"}") for line in lines):
        return [decode(line, Member, at=str(place)) for place, line in enumerate(lines)]
    return [decode(text, Member)]


def _checked(members: Sequence[Member]) -> list[NewEvent]:
    if not members:
        message = "there is no event in it"
        raise click.UsageError(message)
    declared = build_registry(operator_settings()).events
    one = len(members) == 1
    return [event_of_member(member, declared, "" if one else str(place)) for place, member in enumerate(members)]


async def _publish(record: Record, events: Sequence[NewEvent]) -> list[UUID]:
    ids: list[UUID] = []
    async with transaction(record) as tx:
        for first in range(0, len(events), MOST_EVENTS):
            ids += await publish_from_outside(tx, events[first : first + MOST_EVENTS])
    return ids
