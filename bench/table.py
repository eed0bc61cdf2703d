"""The table of results, and its place in README.md.

Owns the arithmetic between what was measured and what is shown: ratios are of one run, a rate that was measured in
several turns counts with its median. Never write a number into README.md by hand: between its two marks stands what
the command wrote.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench.doors import Doors
from bench.drain import Drained
from bench.events import Latency, Moved

BEGIN, END = "<!-- results: written by `python -m bench --write` -->", "<!-- end of results -->"
_BLOCK = 1024 * 1024


class Row(msgspec.Struct, frozen=True):
    """One line: what was measured, the figure that counts, and whether it reaches its target (None: there is none)."""

    what: str
    measured: str
    beside: str
    figure: str
    target: str
    reached: bool | None


def door_rows(doors: Doors) -> list[Row]:
    """Return the doors beside the bare handler."""
    bare = statistics.median(turn.bare.rate for turn in doors.rounds)
    rows = []
    for what, target in (("jobs", 0.45), ("confirm", 0.30)):
        turns = [getattr(turn, what) for turn in doors.rounds]
        ratio = statistics.median(taken.rate / turn.bare.rate for taken, turn in zip(turns, doors.rounds, strict=True))
        rate = statistics.median(taken.rate for taken in turns)
        wait = statistics.median(taken.percentile_milliseconds(0.5) for taken in turns)
        path = {"jobs": "`POST /v1/jobs`", "confirm": "`POST /v1/orders/{id}/confirm`"}[what]
        measured = f"{rate:,.0f}/s, p50 {wait:.1f} ms"
        rows.append(
            Row(path, measured, f"bare INSERT {bare:,.0f}/s", f"{ratio:.0%}", f"≥ {target:.0%}", ratio >= target)
        )
    return rows


def drain_row(ours: Sequence[Drained], theirs: Sequence[Drained]) -> Row:
    """Return the drain beside Taskiq's."""
    ratio = statistics.median(one.rate / other.rate for one, other in zip(ours, theirs, strict=True))
    own, other = (statistics.median(drained.rate for drained in runs) for runs in (ours, theirs))
    jobs = f"{ours[0].jobs:,} x `diagnostics.echo`, one worker"
    return Row(jobs, f"{own:,.0f}/s", f"Taskiq on Redis {other:,.0f}/s", f"{ratio:.1f}x", "≥ 2x", ratio >= 2)


def cost_row(ours: Sequence[Drained], theirs: Sequence[Drained]) -> Row:
    """Return the processor time of a job, which other work on the machine hardly changes."""
    own, other = (min(runs, key=lambda drained: sum(drained.cost.values())).cost for runs in (ours, theirs))
    parts = ", ".join(f"{name} {microseconds:.0f}" for name, microseconds in own.items())
    figure = f"{sum(own.values()):.0f} µs"
    return Row("processor time of a job", parts, f"Taskiq {sum(other.values()):.0f} µs", figure, "", None)


def relay_row(moved: Sequence[Moved]) -> Row:
    """Return the relay's rate."""
    rate = statistics.median(one.rate for one in moved)
    return Row("relay, record to stream", f"{rate:,.0f} events/s", "", f"{rate:,.0f}/s", "≥ 20,000/s", rate >= 20_000)


def latency_row(latency: Latency) -> Row:
    """Return the latency of a lone event."""
    half, most = latency.percentile(50), latency.percentile(99)
    measured = f"p50 {half:.1f} ms, p99 {most:.1f} ms"
    return Row("commit to handler, idle", measured, "", f"{half:.1f} ms", "p50 ≤ 12 ms", half <= 12)


def memory_rows(resident: dict[str, float]) -> list[Row]:
    """Return the memory of each process."""
    return [
        Row(f"memory of `{name}`, idle", f"{size:.0f} MB", "", f"{size:.0f} MB", "< 120 MB", size < 120)
        for name, size in resident.items()
    ]


def rendered(rows: Sequence[Row]) -> str:
    """Return the table in Markdown, with the machine and the moment."""
    lines = [machine(), "", "| what | measured | beside | figure | target | |", "|---|---|---|---|---|---|"]
    for row in rows:
        mark = {True: "reached", False: "missed", None: ""}[row.reached]
        lines.append(f"| {row.what} | {row.measured} | {row.beside} | {row.figure} | {row.target} | {mark} |")
    return "\n".join(lines)


def machine() -> str:
    """Describe what this ran on, and how busy it was with other things."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1024 * _BLOCK)
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    busy = os.getloadavg()[2]
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {os.cpu_count()} x {names[0] if names else platform.machine()}, "
        f"{memory} GiB, Linux {platform.release()}, Python {platform.python_version()}; "
        f"everything on one machine, whose load over 15 minutes was {busy:.1f}."
    )


def write(readme: Path, table: str) -> None:
    """Put the table between the two marks of README.md."""
    text = readme.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")
