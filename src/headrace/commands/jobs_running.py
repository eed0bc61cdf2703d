"""`headrace jobs run`: enqueue a job from the command line, and wait for it if asked to.

Owns the way from JSON arguments to a job on record: they are checked against the task's signature as the API would
check them. With `--wait` the exit code is the job's: 0 where it has succeeded, 1 otherwise, also where time was up.
"""

from __future__ import annotations

import math
import sys
import time
from typing import Final
from uuid import UUID

import click

from headrace.api.job_requests import offered
from headrace.commands.arguments import checked_args
from headrace.commands.job_options import chosen_options, job_options
from headrace.commands.operating import operate, operator_settings
from headrace.commands.shown import echo_json, json_option, one_line
from headrace.database.record import Record
from headrace.database.states import FINISHED, JobState
from headrace.errors import InvalidInputError
from headrace.jobs.call import Call, Options
from headrace.jobs.ending import open_endings
from headrace.jobs.queries import Job, job_by_id
from headrace.jobs.queues import register_queues
from headrace.resources import build_registry
from headrace.telemetry.setup import configure
from headrace.transaction import transaction

_FOR_EVER: Final = math.inf
_LOOK_SECONDS: Final = 600.0


@click.command(
    "run", help="Enqueue a job and print its id. With --wait, wait for its end: exit code 0 if it succeeded, 1 if not."
)
@click.argument("task")
@click.option("--args", "encoded", default="{}", show_default=True, metavar="JSON", help="the arguments by name")
@job_options
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(min=0),
    is_flag=False,
    flag_value=_FOR_EVER,
    default=None,
    metavar="[SECONDS]",
    help="wait for its end, that long at most",
)
@json_option
def run_task(task: str, encoded: str, wait_seconds: float | None, *, as_json: bool) -> None:
    """Enqueue a job, and perhaps wait for it."""
    call = _call(task, encoded, chosen_options())
    telemetry = configure("operator")
    try:
        job = operate(lambda record: _enqueue(record, call))
    finally:
        telemetry.shutdown()
    if wait_seconds is None:
        echo_json(job) if as_json else click.echo(job.id)
        return
    if not as_json:
        click.echo(job.id)
    job = operate(lambda record: _finished(record, job.id, wait_seconds))
    if as_json:
        echo_json(job)
    else:
        click.echo(_told(job))
    sys.exit(0 if job.state is JobState.SUCCEEDED else 1)


def _call(name: str, encoded: str, options: Options) -> Call:
    tasks = offered(build_registry(operator_settings()).tasks)
    if name not in tasks:
        message = (
            f"no application that HEADRACE_APPLICATIONS names has the task {name}; there are {', '.join(sorted(tasks))}"
        )
        raise click.BadParameter(message, param_hint="TASK")
    task = tasks[name]
    try:
        return task.call_encoded(checked_args(task, encoded), options)
    except InvalidInputError as error:
        raise click.UsageError(str(error)) from error


async def _enqueue(record: Record, call: Call) -> Job:
    await register_queues(record.engine, {call.queue})
    async with transaction(record) as tx:
        (job_id,) = await tx.enqueue_calls([call])
    return await job_by_id(record, job_id)


async def _finished(record: Record, job_id: UUID, wait_seconds: float) -> Job:
    """Return the job when it is finished or the time is up, as it stands then."""
    ends_at = time.monotonic() + wait_seconds
    async with open_endings(record) as endings:
        while (job := await job_by_id(record, job_id)).state not in FINISHED and (
            left := ends_at - time.monotonic()
        ) > 0:
            await endings.wait(job_id, min(left, _LOOK_SECONDS))
    return job


def _told(job: Job) -> str:
    if job.state is JobState.SUCCEEDED:
        return f"succeeded: {bytes(job.result).decode()}"
    if job.state not in FINISHED:
        return f"it is still {job.state}: the time is up"
    why = f": {one_line(f'{job.errors[-1].type}: {job.errors[-1].message}')}" if job.errors else ""
    return f"{job.state}{why}"
