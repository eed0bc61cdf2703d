"""`headrace subscriptions dead` and `redrive`: what nobody tries again by itself, and how it is tried again.

Owns what they print, and the care before many deliveries are tried again: their number is told, and without `--yes` a
person is asked. Where nobody can be asked, nothing is changed and the exit code is 2. They read and change the record
as the API does, and their JSON is the API's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import click

from headrace.commands.operating import operate
from headrace.commands.shown import NOTHING, echo_json, echo_table, json_option, moment, one_line
from headrace.cursors import cursor_of, id_of
from headrace.database.record import Record
from headrace.errors import InvalidInputError
from headrace.subscribers.dead import DeadDelivery, DeadGroup, Kind, dead_deliveries, dead_groups
from headrace.subscribers.redrive import Asked, Redriven, Selection, start_redrive
from headrace.transaction import transaction

_GROUPS: Final = ("FINGERPRINT", "RELEASE", "COUNT", "FIRST", "LAST", "ERROR")
_DELIVERIES: Final = ("JOB", "EVENT", "TYPE", "SUBJECT", "ATTEMPTS", "DIED", "ERROR")
_LONGEST_ERROR: Final = 70


@click.command(
    help="List the dead deliveries of a subscription in groups, by what went wrong and under which release; with a "
    "fingerprint, one by one. `webhook:<id>` is the subscription of a webhook."
)
@click.argument("name")
@click.argument("fingerprint", required=False)
@click.option("--release", default=None, help="only those that died under this version of the code")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True, help="how many at most")
@click.option("--cursor", default=None, help="where the page before ended")
@json_option
def dead(  # noqa: PLR0913 - one argument for each part of the question
    name: str, fingerprint: str | None, release: str | None, limit: int, cursor: str | None, *, as_json: bool
) -> None:
    """Print a page of groups, or of deliveries."""
    if fingerprint is None:
        if release is not None:
            message = "a release is one of a fingerprint: name that too"
            raise click.UsageError(message)
        groups = operate(lambda record: _groups(record, name, limit=limit, cursor=cursor))
        _print_groups(groups, limit, as_json=as_json)
        return
    kind = Kind(fingerprint, release)
    found = operate(lambda record: _deliveries(record, name, kind, limit=limit, before=id_of(cursor)))
    _print_deliveries(found, limit, as_json=as_json)


@click.command(
    help="Try dead deliveries of a subscription again, those that meet every given condition, or all of them. It is a "
    "job: watch it by `headrace jobs show`, end it by `headrace jobs cancel`."
)
@click.argument("name")
@click.option("--fingerprint", default=None, help="only those that died of this, as `subscriptions dead` lists it")
@click.option("--release", default=None, help="only those that died under this version of the code")
@click.option("--event", "event_id", type=click.UUID, default=None, help="only that of this event")
@click.option("--type", "types", multiple=True, help="only events of this type, or pattern; may be repeated")
@click.option("--canary", is_flag=True, help="one goes first, the rest when that one has succeeded")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), default=None, help="how many begin in a second")
@click.option("--dry-run", is_flag=True, help="only tell how many there are")
@click.option("--yes", is_flag=True, help="try more than one again without asking")
@json_option
def redrive(  # noqa: PLR0913, PLR0917 - one argument for each condition
    name: str,
    fingerprint: str | None,
    release: str | None,
    event_id: UUID | None,
    types: tuple[str, ...],
    rate: float | None,
    *,
    canary: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Begin a redrive."""
    selection = Selection(
        fingerprint=fingerprint,
        release=release,
        event_id=event_id,
        types=types or None,
        canary=canary,
        rate_per_second=rate,
    )
    counted = _begun(Asked(name, selection, dry_run=True))
    if dry_run or counted.count == 0:
        _print_begun(counted, as_json=as_json)
        return
    if counted.count > 1 and not yes:
        _ask(f"try {counted.count} dead deliveries of {name} again?")
    _print_begun(_begun(Asked(name, selection)), as_json=as_json)


def _begun(asked: Asked) -> Redriven:
    async def work(record: Record) -> Redriven:
        async with transaction(record) as tx:
            return await start_redrive(tx, asked)

    try:
        return operate(work)
    except InvalidInputError as error:
        raise click.UsageError(str(error)) from error


async def _groups(record: Record, name: str, *, limit: int, cursor: str | None) -> list[DeadGroup]:
    async with record.engine.connect() as connection:
        return await dead_groups(connection, name, limit=limit + 1, cursor=cursor)


async def _deliveries(record: Record, name: str, kind: Kind, *, limit: int, before: UUID | None) -> list[DeadDelivery]:
    async with record.engine.connect() as connection:
        return await dead_deliveries(connection, name, kind, limit=limit + 1, before=before)


def _print_groups(found: Sequence[DeadGroup], limit: int, *, as_json: bool) -> None:
    page = found[:limit]
    next_cursor = cursor_of(page[-1].place) if len(found) > limit else None
    if as_json:
        echo_json({"items": page, "next_cursor": next_cursor})
        return
    rows = [
        (
            *(group.fingerprint, group.release or NOTHING, group.count, moment(group.first_at), moment(group.last_at)),
            one_line(f"{group.error_type}: {group.message}", _LONGEST_ERROR),
        )
        for group in page
    ]
    echo_table(_GROUPS, rows, empty="no dead delivery")
    _tell_more(next_cursor)


def _print_deliveries(found: Sequence[DeadDelivery], limit: int, *, as_json: bool) -> None:
    page = found[:limit]
    next_cursor = cursor_of(str(page[-1].job_id)) if len(found) > limit else None
    if as_json:
        echo_json({"items": page, "next_cursor": next_cursor})
        return
    rows = [
        (
            *(one.job_id, one.event_id, one.type or NOTHING, one.subject or NOTHING, one.attempts),
            *(moment(one.died_at), one_line(f"{one.error_type}: {one.message}", _LONGEST_ERROR)),
        )
        for one in page
    ]
    echo_table(_DELIVERIES, rows, empty="no dead delivery of this fingerprint")
    _tell_more(next_cursor)


def _print_begun(redriven: Redriven, *, as_json: bool) -> None:
    if as_json:
        echo_json(redriven)
        return
    told = f"{redriven.count} dead deliver{'y' if redriven.count == 1 else 'ies'}"
    click.echo(told if redriven.job_id is None else f"{told}: tried again by the job {redriven.job_id}")


def _tell_more(next_cursor: str | None) -> None:
    if next_cursor:
        click.echo(f"more: --cursor {next_cursor}", err=True)


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        message = f"{question} Say --yes."
        raise click.UsageError(message)
    click.confirm(question, abort=True, err=True)
