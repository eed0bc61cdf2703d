"""Which jobs of a workflow wait for which: a graph without a circle.

Owns the check, made before anything is on record: every name is sound, every parent is a job of the same workflow, none
waits for itself, not even by way of others. What passes here can be finished: some job has no parents, and whenever
all of a job's parents have succeeded it can start. Never let a graph into the record unchecked: the jobs of a circle
would wait for each other for ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Final, NoReturn

from headrace.errors import FieldError, InvalidInputError

MOST_STEPS: Final = 10_000
MOST_LINKS: Final = 100_000
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}", re.ASCII)
"""What a job of a workflow may be called; no dots, so that `jobs.{name}.after` has one meaning."""
_MOST_ERRORS: Final = 100
_MOST_SHOWN: Final = 10


def require_graph(after: Mapping[str, Sequence[str]]) -> None:
    """Refuse a workflow that could not be finished; `after` names the parents of each of its jobs.

    Raises:
        InvalidInputError: naming each field that is wrong, such as `jobs.b.after`.

    """
    wrong = [*_wrong_size(after), *_wrong_names(after)] or _circle(after)
    if wrong:
        refuse(wrong)


def refuse(wrong: Sequence[FieldError]) -> NoReturn:
    """Refuse a workflow for what is wrong with it.

    Raises:
        InvalidInputError: naming the fields, a hundred at most.

    """
    message = f"{wrong[0].field}: {wrong[0].message}"
    raise InvalidInputError(message, tuple(wrong[:_MOST_ERRORS]))


def _wrong_size(after: Mapping[str, Sequence[str]]) -> Iterator[FieldError]:
    if not 1 <= len(after) <= MOST_STEPS:
        yield FieldError("jobs", f"a workflow has 1 to {MOST_STEPS} jobs")
    if sum(map(len, after.values())) > MOST_LINKS:
        yield FieldError("jobs", f"a workflow has at most {MOST_LINKS} links between its jobs")


def _wrong_names(after: Mapping[str, Sequence[str]]) -> Iterator[FieldError]:
    for name, parents in after.items():
        if not _NAME.fullmatch(name):
            yield FieldError(f"jobs.{name[:100]}", "a name has 1 to 100 letters, digits, `_` and `-`")
        field = f"jobs.{name}.after"
        for parent in parents:
            if parent == name:
                yield FieldError(field, "a job cannot wait for itself")
            elif parent not in after:
                yield FieldError(field, f"`{parent[:100]}` is no job of this workflow")
        if len(set(parents)) < len(parents):
            yield FieldError(field, "a parent is named twice")


def _circle(after: Mapping[str, Sequence[str]]) -> list[FieldError]:
    """Return an error for each job of a circle, where there is one."""
    try:
        TopologicalSorter(after).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1][::-1]  # each waits for the next one, and the last is the first again
        shown = " -> ".join([*circle[:_MOST_SHOWN], *(["…"] if len(circle) > _MOST_SHOWN else [])])
        return [FieldError(f"jobs.{name}.after", f"these wait for each other: {shown}") for name in circle[:-1]]
    return []
