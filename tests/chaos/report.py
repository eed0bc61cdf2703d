"""What a run of chaos says at its end: two tables and, where something is wrong, what.

Owns the words. The tables are Markdown, so that they are published as they were printed. A run is sound when the
checker found no fault and no concurrency key had more than one job under way.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from headrace.clock import now
from headrace.database.states import JobState
from tests.chaos.run import Result
from tests.history import Wrong

_MOST_FAULTS: Final = 30
BEGIN: Final = "<!-- results: written by `python -m tests.chaos --write` -->"
_END: Final = "<!-- end of the results -->"


def is_sound(result: Result) -> bool:
    """Tell whether the promise was kept."""
    return not result.verdict.faults and result.most_of_one_key <= 1 and not result.started_too_early


def report(result: Result) -> str:
    """Return the report of a run."""
    struck = sorted(result.struck.items(), key=lambda item: (-item[1], item[0]))
    parts = [
        table(("what happened to the deployment", "times"), [(kind.value, str(times)) for kind, times in struck]),
        table(("what became of the jobs", "count"), _outcome(result)),
    ]
    faults = [f"{fault.wrong}: {fault.about} {fault.said}" for fault in result.verdict.faults[:_MOST_FAULTS]]
    return "\n\n".join(parts + (["\n".join(faults)] if faults else []))


def head_of(result: Result) -> str:
    """Return the line above the tables."""
    measure = result.measure
    return f"{now():%Y-%m-%d}, seed {measure.seed}: {measure.jobs:,} calls within {measure.seconds:g} seconds."


def publish(text: str, page: Path, begin: str = BEGIN) -> None:
    """Put the report of a run in the place of the last one on a page, which begins with the line `begin`.

    Raises:
        ValueError: the page has no such place.

    """
    before, _, rest = page.read_text().partition(begin)
    _, found, after = rest.partition(_END)
    if not found:
        message = f"{page} has no place between {begin} and {_END}"
        raise ValueError(message)
    page.write_text(f"{before}{begin}\n{text}\n{_END}{after}")


def _outcome(result: Result) -> list[tuple[str, str]]:
    verdict = result.verdict
    counted = {
        "accepted": verdict.accepted,
        "succeeded": verdict.states.get(JobState.SUCCEEDED, 0),
        "dead": verdict.states.get(JobState.DEAD, 0),
        "of these because workers died under them": verdict.quarantined,
        "of these by no fault of theirs": verdict.innocent,
        "cancelled": verdict.states.get(JobState.CANCELLED, 0),
        "expired": verdict.states.get(JobState.EXPIRED, 0),
        "attempts on record": verdict.attempts,
        "of these lost with their worker": verdict.lost_attempts,
        "runs handed back, or ended by a snooze": verdict.handed_back,
        "repeated effects outside": verdict.duplicates_outside,
        "jobs of one concurrency key at once": result.most_of_one_key,
        "children that started before their parents' success": result.started_too_early,
        **{f"**{wrong}**": verdict.count(wrong) for wrong in Wrong},
    }
    return [(name, f"{number:,}") for name, number in counted.items()]


def table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    """Return a table of names and numbers."""
    lines = [f"| {head[0]} | {head[1]} |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows)]
    return "\n".join(lines)
