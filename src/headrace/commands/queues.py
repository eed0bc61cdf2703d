"""`headrace queues`: how the queues stand; pause, resume and limit them.

Owns what these commands print. Their JSON is the API's.
"""

from __future__ import annotations

import getpass

import click

from headrace.commands.operating import operate
from headrace.commands.shown import NOTHING, echo_json, echo_table, json_option, seconds
from headrace.database.record import Bell, Record
from headrace.database.states import JobState
from headrace.jobs.standing import QueueStanding, Tally, queue_standings, set_paused
from headrace.transaction import transaction


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
        (queue.name, "paused" if queue.paused else "open", _counts(queue), _oldest(queue), queue.workers)
        for queue in found
    ]
    empty = "no queue yet: the first job makes one"
    echo_table(("QUEUE", "STATE", "JOBS", "OLDEST PENDING", "WORKERS"), rows, empty=empty)


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
        await set_paused(tx, name, paused=paused, by=_me())
        tx.bells.add(Bell.JOBS)
    return await _standing(record, name)


def _me() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as containers have
        return "the command line"


async def _standing(record: Record, name: str) -> QueueStanding:
    (queue,) = [found for found in await _standings(record) if found.name == name]
    return queue


def _shown(queue: QueueStanding, *, as_json: bool) -> None:
    if as_json:
        echo_json(queue)
    else:
        click.echo(f"the queue {queue.name} is {'paused' if queue.paused else 'open'}")


def _counts(queue: QueueStanding) -> str:
    return ", ".join(f"{queue.counts[state]} {state}" for state in JobState if queue.counts.get(state)) or NOTHING


def _oldest(queue: QueueStanding) -> str:
    return seconds(queue.oldest_pending_age_seconds)
