"""`headrace events show`.

Owns what it prints. It reads the record as the API does, and its JSON is the API's.
"""

from __future__ import annotations

import click
import msgspec

from headrace.commands.operating import operate
from headrace.commands.shown import NOTHING, echo_facts, echo_json, echo_table, json_option, moment, one_line
from headrace.database.record import Record
from headrace.events.queries import DeliveryStatus, Event, deliveries_of, find_event
from headrace.events.showing import shown


@click.command(help="Show an event, by the record's id or its producer's, and how it stands with each subscription.")
@click.argument("event_id")
@json_option
def show(event_id: str, *, as_json: bool) -> None:
    """Print one event."""
    event, deliveries = operate(lambda record: _event_and_deliveries(record, event_id))
    if as_json:
        echo_json(shown(event) | {"deliveries": deliveries})
        return
    echo_facts(_facts(event))
    click.echo()
    rows = [
        (one.subscription, one.state, one.attempts, one.job_id or NOTHING, one_line(one.last_error or ""))
        for one in deliveries
    ]
    echo_table(("SUBSCRIPTION", "STATE", "ATTEMPTS", "JOB", "ERROR"), rows, empty="no subscription listens to its type")


async def _event_and_deliveries(record: Record, event_id: str) -> tuple[Event, list[DeliveryStatus]]:
    event = await find_event(record, event_id)
    return event, await deliveries_of(record, event)


def _facts(event: Event) -> list[tuple[str, object]]:
    extensions: dict[str, object] = msgspec.json.decode(event.attributes)
    place = "not yet given" if event.position is None else f"lane {event.lane}, position {event.position}"
    return [
        ("event", event.source_id),
        ("on record", event.id if str(event.id) != event.source_id else None),
        ("type", f"{event.type}, version {event.version}"),
        ("source", event.source),
        ("subject", event.subject),
        ("time", moment(event.time)),
        ("accepted", moment(event.created_at)),
        ("place", place),
        ("data", bytes(event.data).decode()),
        ("extensions", msgspec.json.encode(extensions).decode() if extensions else None),
        ("trace", event.trace_id),
    ]
