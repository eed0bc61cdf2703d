"""`headrace jobs retry` and `cancel`: one job by its id, or all that meet a filter.

Owns the care that is taken before many jobs are changed: their number is told, and without `--yes` a person is asked.
Where nobody can be asked, nothing is changed and the exit code is 2. A job that cannot be changed is exit code 1.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

import click
import msgspec

from headrace.commands.arguments import checked_args
from headrace.commands.job_options import chosen_jobs, filter_options
from headrace.commands.operating import operate, operator_settings
from headrace.commands.shown import echo_json, json_option
from headrace.database.record import Record
from headrace.database.states import REDRIVABLE
from headrace.errors import InvalidInputError
from headrace.jobs.bulk import UNFINISHED, Change, cancelling, change_matching, count_matching, retrying
from headrace.jobs.cancel import cancel_job
from headrace.jobs.queries import Job, JobFilter, job_by_id
from headrace.jobs.redrive import Changes, redrive_job, task_of
from headrace.jobs.retry import Retry
from headrace.resources import build_registry
from headrace.tasks.contract import Task
from headrace.transaction import Transaction, transaction

_yes_option = click.option("--yes", is_flag=True, help="change more than one job without asking")


@click.command(
    help="Make a stopped job (dead, cancelled or expired) pending again: the one named by its id, or all that meet "
    "every given condition. Attempts count on, and get as many more as the task declares."
)
@click.argument("job_id", type=click.UUID, required=False)
@filter_options(REDRIVABLE, "task", "queue", "tag")
@click.option("--args", "encoded", default=None, metavar="JSON", help="other arguments, all of them; for one job")
@_yes_option
@json_option
def retry(job_id: UUID | None, encoded: str | None, *, yes: bool, as_json: bool) -> None:
    """Retry jobs."""
    tasks = build_registry(operator_settings()).names
    if job_id is not None:
        _change_one(job_id, lambda tx, one: _retry(tx, one, tasks, encoded), as_json=as_json)
        return
    if encoded is not None:
        message = "other arguments are for one job: name it by its id"
        raise click.UsageError(message)
    attempts = {name: task.policy.retry.max_attempts for name, task in tasks.items()}
    _change_many("retry", retrying(attempts), yes=yes, as_json=as_json)


@click.command(
    help="Cancel an unfinished job: the one named by its id, or all that meet every given condition. What waits never "
    "runs; what runs is ended by its worker."
)
@click.argument("job_id", type=click.UUID, required=False)
@filter_options(UNFINISHED, "task", "queue", "tag")
@_yes_option
@json_option
def cancel(job_id: UUID | None, *, yes: bool, as_json: bool) -> None:
    """Cancel jobs."""
    if job_id is not None:
        _change_one(job_id, cancel_job, as_json=as_json)
    else:
        _change_many("cancel", cancelling(), yes=yes, as_json=as_json)


async def _retry(tx: Transaction, job_id: UUID, tasks: Mapping[str, Task[Any, Any]], encoded: str | None) -> None:
    name = await task_of(tx, job_id)
    task = tasks.get(name)
    attempts = (task.policy.retry if task else Retry()).max_attempts
    args = None if encoded is None else _checked(name, task, encoded)
    await redrive_job(tx, job_id, attempts=attempts, changes=Changes(args=args))


def _checked(name: str, task: Task[Any, Any] | None, encoded: str) -> msgspec.Raw:
    if task is None:
        message = f"no application that HEADRACE_APPLICATIONS names has the task {name}"
        raise click.BadParameter(message, param_hint="--args")
    return checked_args(task, encoded)


def _change_one(job_id: UUID, change: Callable[[Transaction, UUID], Awaitable[object]], *, as_json: bool) -> None:
    if chosen_jobs() != JobFilter():
        message = "give either the id of a job or conditions, not both"
        raise click.UsageError(message)

    async def work(record: Record) -> Job:
        async with transaction(record) as tx:
            await change(tx, job_id)
        return await job_by_id(record, job_id)

    job = operate(work)
    if as_json:
        echo_json(job)
    else:
        click.echo(f"{job.id} is {job.state}" + (", and is asked to end" if job.state == "running" else ""))


def _change_many(verb: str, change: Change, *, yes: bool, as_json: bool) -> None:
    chosen = chosen_jobs()
    try:
        matching = operate(lambda record: count_matching(record, chosen, change))
    except InvalidInputError as error:
        raise click.UsageError(str(error)) from error
    if matching > 1 and not yes:
        _ask(f"{verb} {matching} jobs?")

    async def work(record: Record) -> int:
        async with transaction(record) as tx:
            return await change_matching(record, tx, chosen, change)

    count = operate(work) if matching else 0
    if as_json:
        echo_json({"count": count})
    else:
        click.echo(f"{verb}: {count} job{'' if count == 1 else 's'}")


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        message = f"{question} Say --yes."
        raise click.UsageError(message)
    click.confirm(question, abort=True, err=True)
