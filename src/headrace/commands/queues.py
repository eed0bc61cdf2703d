"""`headrace queues`: how the queues stand; pause, resume and limit them.

Owns what these commands print. Their JSON is the API's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import click
import msgspec

from headrace.commands.operating import operate, operator_name
from headrace.commands.shown import NOTHING, echo_json, echo_table, json_option, seconds
from headrace.database.record import Bell, Record
from headrace.database.states import JobState
from headrace.errors import NotFoundError
from headrace.jobs.limits import Limits, set_limits
from headrace.jobs.standing import QueueStanding, Tally, queue_standings, set_paused
from headrace.transaction import transaction

_LIFTED: Final = "none"


@click.group(help="List the queues; with a command, pause, resume or limit one.", invoke_without_command=True)
@json_option
@click.pass_context
def queues(ctx: click.Context, *, as_json: bool) -> None:
    """Print the queues unless a command follows."""
    if ctx.invoked_subcommand is not None:
        return
    found = operate(_standings)
    if as_json:
        echo_json({"items": found, "next_cursor": None})
        return
    rows = [
        (
            queue.name,
            "paused" if queue.paused else "open",
            _counts(queue),
            seconds(queue.oldest_pending_age_seconds),
            queue.workers,
            _limits(queue),
        )
        for queue in found
    ]
    empty = "no queue yet: the first job makes one"
    echo_table(("QUEUE", "STATE", "JOBS", "OLDEST PENDING", "WORKERS", "LIMITS"), rows, empty=empty)


@queues.command(help="Release no further jobs of a queue; what its workers have already been given still runs.")
@click.argument("name")
@json_option
def pause(name: str, *, as_json: bool) -> None:
    """Pause a queue."""
    _shown(operate(lambda record: _set_paused(record, name, paused=True)), as_json=as_json)


@queues.command(help="Release the jobs of a queue again.")
@click.argument("name")
@json_option
def resume(name: str, *, as_json: bool) -> None:
    """Let a queue go on."""
    _shown(operate(lambda record: _set_paused(record, name, paused=False)), as_json=as_json)


async def _standings(record: Record) -> list[QueueStanding]:
    async with record.engine.connect() as connection:
        return await queue_standings(connection, await Tally().counts(connection))


async def _set_paused(record: Record, name: str, *, paused: bool) -> QueueStanding:
    async with transaction(record) as tx:
        await set_paused(tx, name, paused=paused, by=operator_name())
        tx.bells.add(Bell.JOBS)
    return await _standing(record, name)


@queues.command(
    help="Show the limits of a queue, or set those that are given and keep the others; `none` lifts one. They hold for "
    "all workers together, from this moment on."
)
@click.argument("name")
@click.option("--concurrency", metavar="N", help="jobs at once")
@click.option("--rate", metavar="N/SECONDS", help="starts within any stretch of that many seconds, such as 100/60")
@click.option("--per-key-concurrency", metavar="N", help="jobs at once with the same concurrency key; 1 by default")
@json_option
def limits(
    name: str, concurrency: str | None, rate: str | None, per_key_concurrency: str | None, *, as_json: bool
) -> None:
    """Show or set the limits of a queue."""
    given = {"concurrency": concurrency, "rate": rate, "per_key_concurrency": per_key_concurrency}
    changes = {field: _limit(field, text) for field, text in given.items() if text is not None}
    queue = operate(lambda record: _set_limits(record, name, changes))
    if as_json:
        echo_json(queue)
    else:
        click.echo(f"the queue {queue.name}: {_limits(queue) or 'no limits'}")


def _limit(field: str, text: str) -> object:
    """Return one limit as a value of its own, from a number, `100/60` or `none`."""
    if text == _LIFTED:
        return None
    count, _, seconds_of_rate = text.partition("/")
    shaped = {"limit": count, "per_seconds": seconds_of_rate} if field == "rate" else count
    try:
        return getattr(msgspec.convert({field: shaped}, Limits, strict=False), field)
    except msgspec.ValidationError as error:
        message = "give a count above 0" + (" and seconds, as 100/60" if field == "rate" else "") + ", or none"
        raise click.BadParameter(message, param_hint=f"--{field.replace('_', '-')}") from error


async def _set_limits(record: Record, name: str, changes: Mapping[str, object]) -> QueueStanding:
    if changes:
        known = next((queue.limits for queue in await _standings(record) if queue.name == name), None)
        async with transaction(record) as tx:
            await set_limits(tx, name, msgspec.structs.replace(known or Limits(), **changes))
    return await _standing(record, name)


async def _standing(record: Record, name: str) -> QueueStanding:
    found = next((queue for queue in await _standings(record) if queue.name == name), None)
    if found is None:
        message = f"there is no queue {name}"
        raise NotFoundError(message)
    return found


def _shown(queue: QueueStanding, *, as_json: bool) -> None:
    if as_json:
        echo_json(queue)
    else:
        click.echo(f"the queue {queue.name} is {'paused' if queue.paused else 'open'}")


def _limits(queue: QueueStanding) -> str:
    limits = queue.limits or Limits()
    found = {
        f"{limits.concurrency} at once": limits.concurrency,
        f"{limits.rate.limit} starts in {limits.rate.per_seconds:g} s" if limits.rate else "": limits.rate,
        f"{limits.per_key_concurrency} at once per key": limits.per_key_concurrency,
    }
    return ", ".join(told for told, value in found.items() if value is not None)


def _counts(queue: QueueStanding) -> str:
    return ", ".join(f"{queue.counts[state]} {state}" for state in JobState if queue.counts.get(state)) or NOTHING
