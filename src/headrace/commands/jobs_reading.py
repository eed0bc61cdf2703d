"""`headrace jobs list`, `show` and `explain`.

Owns what they print. They read the record as the API does, and their JSON is the API's.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import click
import msgspec

from headrace.commands.job_options import chosen_jobs, filter_options
from headrace.commands.operating import operate
from headrace.commands.shown import echo_facts, echo_json, echo_table, json_option, moment, one_line, seconds
from headrace.cursors import cursor_of, id_of
from headrace.database.record import Record
from headrace.database.states import JobState
from headrace.jobs.explain import Explanation, explain_job
from headrace.jobs.forecast import Forecast
from headrace.jobs.history import Move, history_of, spent
from headrace.jobs.queries import Job, JobError, job_by_id, page_of_jobs


@click.command("list", help="List jobs that meet every given condition, newest first.")
@filter_options(JobState, "task", "queue", "tag", "trace_id")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True, help="how many jobs at most")
@click.option("--cursor", default=None, help="where the page before ended")
@json_option
def list_(limit: int, cursor: str | None, *, as_json: bool) -> None:
    """Print a page of jobs."""
    chosen = chosen_jobs()
    found, after = operate(lambda record: page_of_jobs(record, chosen, limit=limit, before=id_of(cursor)))
    next_cursor = None if after is None else cursor_of(str(after))
    if as_json:
        echo_json({"items": found, "next_cursor": next_cursor})
        return
    rows = [
        (job.id, job.task, job.queue, job.state, _attempts(job), moment(job.created_at), _note(job)) for job in found
    ]
    echo_table(("JOB", "TASK", "QUEUE", "STATE", "ATTEMPT", "CREATED", "NOTE"), rows, empty="no job fits")
    if next_cursor:
        click.echo(f"more: --cursor {next_cursor}", err=True)


@click.command(help="Show a job with its attempts and its way through the states: how long it waited, ran, backed off.")
@click.argument("job_id", type=click.UUID)
@json_option
def show(job_id: UUID, *, as_json: bool) -> None:
    """Print one job."""
    job, moves = operate(lambda record: _job_and_history(record, job_id))
    if as_json:
        echo_json(msgspec.structs.asdict(job) | {"history": moves})
        return
    echo_facts(_facts(job))
    _echo_moves(moves)
    _echo_errors(job.errors)


@click.command(help="Say why a job is not running at this moment, every reason, and when it may start.")
@click.argument("job_id", type=click.UUID)
@json_option
def explain(job_id: UUID, *, as_json: bool) -> None:
    """Print the reasons."""
    explanation = operate(lambda record: explain_job(record, job_id))
    if as_json:
        echo_json(explanation)
        return
    click.echo(f"{job_id} is {explanation.state}")
    rows = [(reason.code, reason.message) for reason in explanation.reasons]
    echo_table(("REASON", "WHAT IT MEANS"), rows, empty=_nothing_in_the_way(explanation))
    if explanation.forecast is not None:
        click.echo(_forecast(explanation.forecast))
    if explanation.behind:
        click.echo(f"{explanation.behind} events of its key wait until it has succeeded, or is cancelled")


async def _job_and_history(record: Record, job_id: UUID) -> tuple[Job, list[Move]]:
    job = await job_by_id(record, job_id)
    async with record.engine.connect() as connection:
        return job, await history_of(connection, job_id)


def _facts(job: Job) -> list[tuple[str, object]]:
    return [
        ("job", job.id),
        ("task", job.task),
        ("state", job.state),
        ("queue", f"{job.queue}, priority {job.priority}"),
        ("attempt", _attempts(job)),
        ("created", moment(job.created_at)),
        ("due", moment(job.run_at)),
        ("started", job.started_at and moment(job.started_at)),
        ("finished", job.finished_at and moment(job.finished_at)),
        ("expires", job.expires_at and moment(job.expires_at)),
        ("arguments", bytes(job.args).decode()),
        (
            "arguments before",
            "; ".join(f"{bytes(one.args).decode()} to attempt {one.attempt}" for one in job.former_args),
        ),
        ("result", bytes(job.result).decode() if job.state is JobState.SUCCEEDED else None),
        ("progress", None if bytes(job.progress) == b"null" else bytes(job.progress).decode()),
        ("tags", ", ".join(job.tags)),
        ("unique key", job.unique_key),
        ("concurrency key", job.concurrency_key),
        ("parent", job.parent_id),
        ("trace", job.trace_id),
    ]


def _echo_moves(moves: Sequence[Move]) -> None:
    click.echo()
    rows = [(moment(move.at), move.state, seconds(move.seconds)) for move in moves]
    echo_table(("SINCE", "STATE", "FOR"), rows, empty="its way is not on record")
    total = spent(moves)
    click.echo(
        f"waited {seconds(total.waited_seconds)}, ran {seconds(total.ran_seconds)}, "
        f"backed off {seconds(total.backed_off_seconds)}"
    )


def _echo_errors(errors: Sequence[JobError]) -> None:
    for error in errors:
        click.echo(f"\nattempt {error.attempt}, {moment(error.at)}, {error.outcome}: {error.type}: {error.message}")
        if error.traceback:
            click.echo("\n".join(f"    {line}" for line in error.traceback.splitlines()))


def _attempts(job: Job) -> str:
    return f"{job.attempt} of {job.max_attempts}"


def _note(job: Job) -> str:
    if job.errors and job.state is not JobState.SUCCEEDED:
        return one_line(f"{job.errors[-1].type}: {job.errors[-1].message}")
    if job.state in {JobState.SCHEDULED, JobState.RETRYING}:
        return f"due {moment(job.run_at)}"
    return ""


def _nothing_in_the_way(explanation: Explanation) -> str:
    return "it runs" if explanation.state is JobState.RUNNING else "nothing is in its way"


def _forecast(forecast: Forecast) -> str:
    place = "no place in line yet" if forecast.position is None else f"place {forecast.position} in line"
    if forecast.start_in_seconds is None:
        return f"{place}; when it starts cannot be said: {forecast.basis}"
    start = forecast.start_in_seconds
    return (
        f"{place}; starts in about {seconds(start.likely)} ({seconds(start.low)} to {seconds(start.high)}): "
        f"{forecast.basis}"
    )
