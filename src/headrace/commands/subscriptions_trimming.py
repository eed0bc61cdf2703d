"""`headrace subscriptions holders` and `forget`: who keeps the lanes from being trimmed, and the mend.

Owns what they print, and the question before something is forgotten.
"""

from __future__ import annotations

from typing import Final

import click

from headrace.commands.operating import operate
from headrace.commands.shown import echo_json, echo_table, json_option, moment
from headrace.database.record import Record
from headrace.events.holders import Holder, list_holders
from headrace.subscribers.forgetting import forget as take_off
from headrace.transaction import transaction

_COLUMNS: Final = ("SUBSCRIPTION", "KIND", "STATE", "HOLDS", "LAG", "LAST MOVED")


@click.command(
    help="Name the subscriptions that keep events in Redis from being trimmed, and how many each holds alone."
)
@json_option
def holders(*, as_json: bool) -> None:
    """Print who holds the lanes."""
    found = operate(_holders)
    if as_json:
        echo_json({"items": found, "next_cursor": None})
        return
    rows = [(one.name, one.kind, _state(one), one.holds_trimming, one.lag, moment(one.since)) for one in found]
    echo_table(_COLUMNS, rows, empty="nobody holds anything: every subscription has passed all events")


@click.command(
    help="Take a subscription off the record that no code has any more; what it had yet to handle is given up."
)
@click.argument("name")
@click.option("--yes", is_flag=True, help="do not ask")
@json_option
def forget(name: str, *, yes: bool, as_json: bool) -> None:
    """Forget a subscription."""
    if not yes:
        click.confirm(f"forget {name}, and what it has yet to handle?", abort=True, err=True)
    given_up = operate(lambda record: _forget(record, name))
    if as_json:
        echo_json({"name": name, "given_up": given_up})
    else:
        click.echo(f"the subscription {name} is forgotten; it had {given_up} events to pass")


async def _holders(record: Record) -> list[Holder]:
    async with record.engine.connect() as connection:
        return await list_holders(connection)


async def _forget(record: Record, name: str) -> int:
    async with transaction(record) as tx:
        return await take_off(tx, name)


def _state(one: Holder) -> str:
    if one.paused:
        return "paused"
    return "open" if one.declared else "nobody runs it"
