"""What a run of chaos on events says at its end.

Owns the words of its three tables: what happened, what was mended, what became of the events. They are Markdown, so
that they are published as they were printed. A run is sound when the checker found no fault.
"""

from __future__ import annotations

from typing import Final

from headrace.clock import now
from tests.chaos.event_run import EventResult
from tests.chaos.report import table
from tests.event_history import Wrong

BEGIN: Final = "<!-- events: written by `python -m tests.chaos events --write` -->"
_MOST_FAULTS: Final = 30


def is_sound(result: EventResult) -> bool:
    """Tell whether the promise was kept."""
    return not result.verdict.faults


def head_of(result: EventResult) -> str:
    """Return the line above the tables."""
    measure = result.measure
    return (
        f"{now():%Y-%m-%d}, seed {measure.seed}: {measure.events:,} events of {measure.keys:,} keys"
        f" within {measure.seconds:g} seconds."
    )


def report(result: EventResult) -> str:
    """Return the report of a run."""
    struck = sorted(result.struck.items(), key=lambda item: (-item[1], item[0]))
    parts = [
        table(("what happened to the deployment", "times"), [(kind.value, str(times)) for kind, times in struck]),
        table(("what was mended", "times"), [(f"`{reason}`", f"{times:,}") for reason, times in result.mends.items()]),
        table(("what became of the events", "count"), _outcome(result)),
    ]
    faults = [f"{fault.wrong}: {fault.subscription} {fault.about}" for fault in result.verdict.faults[:_MOST_FAULTS]]
    return "\n\n".join(parts + (["\n".join(faults)] if faults else []))


def _outcome(result: EventResult) -> list[tuple[str, str]]:
    verdict = result.verdict
    counted = {
        "accepted": verdict.accepted,
        "keys": verdict.keys,
        **{f"handled by `{name}`": events for name, events in verdict.handled.items()},
        **{f"repeated effects outside of `{name}`": times for name, times in verdict.duplicates_outside.items()},
        "failed deliveries that ended dead": result.dead,
        "seconds until the last was handled, when it was quiet": round(result.settled_seconds),
        **{f"**{wrong}**": verdict.count(wrong) for wrong in Wrong},
    }
    return [(name, f"{number:,}") for name, number in counted.items()]
