"""The options by which commands name jobs, and say how a new one should run.

Owns `--state`, `--task`, `--queue` and `--tag`, the words of the API too, and their way into a `JobFilter`; and the
options of a new job, on their way into `Options`. A command that has them asks `chosen_jobs` or `chosen_options` for
what was given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import click
import msgspec

from headrace.database.states import JobState
from headrace.jobs.call import Options
from headrace.jobs.queries import JobFilter

C = TypeVar("C", bound=Callable[..., Any] | click.Command)

_KEPT: Final = "headrace.chosen"
_MEANINGS: Final = {
    "state": "only jobs in this state",
    "task": "only jobs of this task",
    "queue": "only jobs of this queue",
    "tag": "only jobs with this tag",
    "trace_id": "only jobs of this trace",
}
_OF_A_JOB: Final = (
    ("tags", "--tag", click.STRING, "may be repeated"),
    ("max_attempts", "--max-attempts", click.IntRange(min=1), "as its task declares by default"),
    ("concurrency_key", "--concurrency-key", click.STRING, "jobs with the same key run one after the other"),
    ("timeout_seconds", "--timeout", click.FloatRange(min=0, min_open=True), "seconds that one attempt may take"),
    ("unique_seconds", "--unique-seconds", click.FloatRange(min=0, min_open=True), "hold the key that long besides"),
    ("unique_key", "--unique-key", click.STRING, "an unfinished job of the task with this key is the answer"),
    ("delay_seconds", "--delay", click.FloatRange(min=0), "run it that many seconds later"),
    ("priority", "--priority", click.IntRange(0, 9), "9 first; the task's own by default"),
    ("queue", "--queue", click.STRING, "the task's own by default"),
)


def filter_options(states: Iterable[JobState], *fields: str) -> Callable[[C], C]:
    """Return a decorator that adds `--state` with the states that make sense, and an option for each field."""
    known = frozenset(states)
    names = click.Choice([state.value for state in JobState if state in known])

    def add(command: C) -> C:
        for field in reversed(fields):
            name, meaning = f"--{field.replace('_', '-')}", _MEANINGS[field]
            command = click.option(name, field, expose_value=False, callback=_keep, help=meaning)(command)
        described = click.option("--state", type=names, expose_value=False, callback=_keep, help=_MEANINGS["state"])
        return described(command)

    return add


def job_options(command: C) -> C:
    """Add the options of a new job."""
    for field, name, kind, meaning in _OF_A_JOB:
        several = field == "tags"
        add = click.option(name, field, type=kind, multiple=several, expose_value=False, callback=_keep, help=meaning)
        command = add(command)
    return command


def chosen_jobs() -> JobFilter:
    """Return the filter that the options of the running command name."""
    return msgspec.convert(_chosen(), JobFilter)


def chosen_options() -> Options:
    """Return how the options of the running command want a new job to run."""
    return msgspec.convert(_chosen(), Options)


def _chosen() -> dict[str, object]:
    found: dict[str, object] = click.get_current_context().meta.get(_KEPT, {})
    return found


def _keep(ctx: click.Context, parameter: click.Parameter, value: object) -> None:
    if value not in {None, ()} and parameter.name is not None:
        ctx.meta.setdefault(_KEPT, {})[parameter.name] = value
