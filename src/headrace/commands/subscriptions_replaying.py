"""`headrace subscriptions replay` and `rebuild`, and `headrace events replay`: a subscription goes back in the record.

Owns what they take and print. They begin the same job as the API does, whose id is the answer; without one, it was a
dry run. What cannot be meant is a usage error that names the option.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

import click
import msgspec

from headrace.commands.moments import read_moment
from headrace.commands.operating import operate, operator_settings
from headrace.commands.shown import echo_json, json_option
from headrace.database.record import Record
from headrace.errors import InvalidInputError
from headrace.jobs.queues import register_queues
from headrace.resources import build_registry
from headrace.subscribers.contract import Subscription
from headrace.subscribers.failures import QUEUE
from headrace.subscribers.rebuild import AskedRebuild, start_rebuild
from headrace.subscribers.replay import Asked, Position, Replayed, Selection, start_replay
from headrace.transaction import Transaction, transaction

_OPTIONS: Final = {
    "from_time": "--from",
    "to_time": "--to",
    "from_position": "--from-position",
    "types": "--types",
    "rate_per_second": "--rate",
}


def _position(ctx: click.Context, param: click.Parameter, value: str | None) -> int | dict[str, int] | None:
    """Read a position for all lanes, or `0=17,2=40` for some."""
    del ctx, param
    if value is None:
        return None
    try:
        if "=" not in value:
            return msgspec.convert(int(value), Position)
        named = [part.split("=") for part in value.split(",")]
        positions = {lane.strip(): msgspec.convert(int(position), Position) for lane, position in named}
    except ValueError as error:
        message = "give a position from 0 to 2^63-1 for all lanes, or some lanes with theirs, as 0=17,2=40"
        raise click.BadParameter(message) from error
    if len(positions) < len(named):
        message = "this names a lane twice"
        raise click.BadParameter(message)
    return positions


_rate_option = click.option("--rate", type=float, default=None, metavar="N", help="events in a second at most")
_dry_run_option = click.option("--dry-run", is_flag=True, help="only count, and begin nothing")


@click.command(
    help="Give a subscription events of the record again, beside its live traffic: all that it listens to, or those "
    "that meet every given condition."
)
@click.argument("name")
@click.option("--from", "from_time", callback=read_moment, metavar="TIME", help="those recorded at this time or later")
@click.option("--to", "to_time", callback=read_moment, metavar="TIME", help="those recorded before this time")
@click.option(
    "--from-position",
    callback=_position,
    metavar="N|LANE=N,…",
    help="those at this position of their lane and after it; by lane, only of those that are named",
)
@click.option("--types", multiple=True, metavar="PATTERN,…", help="types, or patterns such as orders.*")
@_rate_option
@_dry_run_option
@json_option
def replay(  # noqa: PLR0913, PLR0917 - one argument for each option
    name: str,
    from_time: datetime | None,
    to_time: datetime | None,
    from_position: int | dict[str, int] | None,
    types: tuple[str, ...],
    rate: float | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Begin a replay."""
    patterns = tuple(one.strip() for given in types for one in given.split(",") if one.strip())
    selection = Selection(
        from_time=from_time,
        to_time=to_time,
        from_position=from_position,
        types=patterns or None,
        rate_per_second=rate,
    )
    asked = Asked(name, selection, dry_run=dry_run)
    begun = _begin(lambda tx, known: start_replay(tx, known, asked))
    _tell(begun, f"to be replayed to {name}", as_json=as_json)


@click.command(
    help="Make the tables of a projection anew from the record, beside live traffic, and put them in place when they "
    "have caught up."
)
@click.argument("name")
@_rate_option
@click.option("--accept-pruned", is_flag=True, help="also where retention has dropped events")
@_dry_run_option
@json_option
def rebuild(name: str, rate: float | None, *, accept_pruned: bool, dry_run: bool, as_json: bool) -> None:
    """Begin a rebuild."""
    asked = AskedRebuild(name, rate, dry_run=dry_run, accept_pruned=accept_pruned)
    begun = _begin(lambda tx, known: start_rebuild(tx, known, asked))
    _tell(begun, f"to rebuild {name} from", as_json=as_json)


def _begin(start: Callable[[Transaction, Mapping[str, Subscription]], Any]) -> Replayed:
    known = build_registry(operator_settings()).subscriptions

    async def work(record: Record) -> Replayed:
        await register_queues(record.engine, {QUEUE})
        async with transaction(record) as tx:
            begun: Replayed = await start(tx, known)
        return begun

    try:
        return operate(work)
    except InvalidInputError as error:
        field = error.errors[0].field.partition(".")[0] if error.errors else ""
        raise click.BadParameter(str(error), param_hint=_OPTIONS.get(field, field)) from error


def _tell(begun: Replayed, purpose: str, *, as_json: bool) -> None:
    if as_json:
        echo_json(begun)
        return
    click.echo(f"{begun.count} event{'' if begun.count == 1 else 's'} {purpose}")
    if begun.job_id is not None:
        click.echo(f"job {begun.job_id}: headrace jobs show {begun.job_id}")
