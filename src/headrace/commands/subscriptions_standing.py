"""`headrace subscriptions list`, `show`, `pause` and `resume`.

Owns what they print. They read and change the record as the API does, and their JSON is the API's.
"""

from __future__ import annotations

from typing import Final

import click
import msgspec

from headrace.commands.operating import operate, operator_name
from headrace.commands.shown import NOTHING, echo_facts, echo_json, echo_table, json_option, moment, seconds
from headrace.cursors import cursor_of, place_of
from headrace.database.record import Record
from headrace.events.listing import SubscriptionStatus, list_subscriptions, subscription_named
from headrace.subscribers.pausing import set_paused
from headrace.transaction import transaction

_COLUMNS: Final = ("SUBSCRIPTION", "KIND", "STATE", "LAG", "OLDEST", "IN FLIGHT", "RETRYING", "DEAD", "TYPES")


@click.command("list", help="List the subscriptions by name, and how far behind each is.")
@click.option("--limit", type=click.IntRange(1, 200), default=200, show_default=True, help="how many at most")
@click.option("--cursor", default=None, help="where the page before ended")
@json_option
def list_(limit: int, cursor: str | None, *, as_json: bool) -> None:
    """Print a page of subscriptions."""
    after = place_of(cursor) or ""
    found = operate(lambda record: list_subscriptions(record, limit=limit + 1, after=after))
    page = found[:limit]
    next_cursor = cursor_of(page[-1].name) if len(found) > limit else None
    if as_json:
        echo_json({"items": page, "next_cursor": next_cursor})
        return
    echo_table(_COLUMNS, map(_row, page), empty="no subscription yet: `headrace consume` registers them")
    if next_cursor:
        click.echo(f"more: --cursor {next_cursor}", err=True)


@click.command(help="Show a subscription: how far it is on every lane, who reads it there, and what of it failed.")
@click.argument("name")
@json_option
def show(name: str, *, as_json: bool) -> None:
    """Print one subscription."""
    found = operate(lambda record: _named(record, name))
    if as_json:
        echo_json(found)
        return
    echo_facts(_facts(found))
    click.echo()
    rows = [(one.lane, one.position, one.head, one.head - one.position, one.owner or NOTHING) for one in found.lanes]
    echo_table(("LANE", "POSITION", "HEAD", "LAG", "OWNER"), rows, empty="it has no place on any lane")


@click.command(help="Deliver no further events to a subscription; it finishes what it has begun and keeps its place.")
@click.argument("name")
@json_option
def pause(name: str, *, as_json: bool) -> None:
    """Pause a subscription."""
    _set(name, paused=True, as_json=as_json)


@click.command(help="Deliver events to a subscription again, from where it was.")
@click.argument("name")
@json_option
def resume(name: str, *, as_json: bool) -> None:
    """Let a subscription go on."""
    _set(name, paused=False, as_json=as_json)


def _set(name: str, *, paused: bool, as_json: bool) -> None:
    async def work(record: Record) -> SubscriptionStatus:
        async with transaction(record) as tx:
            await set_paused(tx, name, paused=paused, by=operator_name())
        return await _named(record, name)

    found = operate(work)
    if as_json:
        echo_json(found)
    else:
        click.echo(f"the subscription {found.name} is {_state(found)}")


async def _named(record: Record, name: str) -> SubscriptionStatus:
    async with record.engine.connect() as connection:
        return await subscription_named(connection, name)


def _row(one: SubscriptionStatus) -> tuple[object, ...]:
    oldest = seconds(one.oldest_unhandled_age_seconds)
    types = " ".join(one.types)
    return one.name, one.kind, _state(one), one.lag, oldest, one.in_flight, one.retrying, one.dead, types


def _facts(one: SubscriptionStatus) -> list[tuple[str, object]]:
    return [
        ("subscription", one.name),
        ("kind", one.kind),
        ("types", " ".join(one.types)),
        ("filter", one.filter and msgspec.json.encode(one.filter).decode()),
        ("state", _state(one)),
        ("paused", one.paused_at and f"{moment(one.paused_at)} by {one.paused_by or 'nobody named'}"),
        ("lag", f"{one.lag} events, the oldest {seconds(one.oldest_unhandled_age_seconds)} old"),
        ("failed", f"{one.in_flight} in flight, {one.retrying} retrying, {one.dead} dead"),
        ("waits for", one.last_error),
        ("rebuilt", one.rebuilt_at and f"{moment(one.rebuilt_at)}, generation {one.generation}"),
    ]


def _state(one: SubscriptionStatus) -> str:
    return "paused" if one.paused else "open"
