"""The table of results, and its place in README.md.

Owns the arithmetic between what was measured and what is shown: ratios are of one run, a rate that was measured in
several turns counts with its median. Never write a number into README.md by hand: between its two marks stands what
the command wrote.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench.backlog import Drained
from bench.doors import Doors
from bench.enqueue import Enqueued
from bench.finished import Burdened
from bench.flat import Flat
from bench.peer import ALL, Peer
from bench.peer_setup import Ready
from bench.pickup import Picked, percentile

BEGIN, END = "<!-- results: written by `python -m bench --write` -->", "<!-- end of results -->"
_BLOCK = 1024 * 1024
_FLAT_MB = 2.0
"""So much comes and goes with buffers and the heap of scripts; a million events would be 400 MB."""


class Row(msgspec.Struct, frozen=True):
    """One line: what was measured, the figure that counts, and whether it reaches its target (None: there is none)."""

    what: str
    measured: str
    beside: str
    figure: str
    target: str
    reached: bool | None
    evidence: str = ""
    """What would burst the table, in Markdown."""


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


def drain_rows(workers: int, ours: Sequence[Drained], theirs: Mapping[str, Sequence[Drained]]) -> list[Row]:
    """Return the drain with so many worker processes beside each peer that was measured."""
    own = statistics.median(drained.rate for drained in ours)
    what = _drain(workers)
    cost = min(ours, key=lambda drained: drained.whole_cost)
    parts = ", ".join(f"{name} {microseconds:.0f}" for name, microseconds in cost.cost.items())
    rows = [Row(what, f"{own:,.0f}/s", f"µs of processor time a job: {parts}", f"{cost.whole_cost:.0f} µs", "", None)]
    return rows + [_beside(what, own, peer, theirs[peer.name]) for peer in ALL if theirs.get(peer.name)]


def _drain(workers: int) -> str:
    return f"drain, {workers} worker {'process' if workers == 1 else 'processes'}"


def _beside(what: str, own: float, peer: Peer, runs: Sequence[Drained]) -> Row:
    other = statistics.median(drained.rate for drained in runs)
    cost = min(drained.whole_cost for drained in runs)
    ratio = own / other
    beside = f"{peer.name} {other:,.0f}/s, {cost:.0f} µs"
    target = f"{'>' if peer.least == 1 else '≥'} {peer.least:g}x"
    reached = ratio > 1 if peer.least == 1 else ratio >= peer.least
    return Row(what, f"{own:,.0f}/s", beside, f"{ratio:.2f}x", target, reached)


def missing_rows(ready: Mapping[str, Ready]) -> list[Row]:
    """Return the peers that could not be measured, with the reason."""
    return [
        Row(f"drain beside {name}", "not measured", one.reason, "", "", None)
        for name, one in ready.items()
        if one.reason
    ]


def unfinished_rows(workers: int, ready: Sequence[str], theirs: Mapping[str, Sequence[Drained]]) -> list[Row]:
    """Return the peers that have finished their jobs in no turn."""
    reason = "it did not finish its jobs in any turn"
    return [
        Row(f"{_drain(workers)}, beside {name}", "not measured", reason, "", "", None)
        for name in ready
        if not theirs.get(name)
    ]


def enqueue_rows(enqueued: Enqueued, batch: int) -> list[Row]:
    """Return what enqueueing takes."""
    half, most = (1e3 * percentile(enqueued.lone, hundredth) for hundredth in (50, 99))
    rows = [Row("a lone `kiq`", f"p50 {half:.1f} ms, p99 {most:.1f} ms", "", f"{half:.1f} ms", "p50 < 3 ms", half < 3)]
    ways = {"`tx.enqueue_calls`": enqueued.batches, "`POST /v1/jobs/batch`": enqueued.posted}
    for way, taken in ways.items():
        middle, longest = statistics.median(taken), max(taken)
        measured = f"median {middle:.2f} s, longest {longest:.2f} s"
        rows.append(Row(f"{batch:,} jobs by {way}", measured, "", f"{middle:.2f} s", "< 1.5 s", middle < 1.5))
    return rows


def pickup_rows(picked: Picked) -> list[Row]:
    """Return how soon jobs begin at a steady rate."""
    rows = []
    for end, waits, targets in (("claimed", picked.claimed, (6, 20)), ("first line of the task", picked.begun, None)):
        half, most = percentile(waits, 50), percentile(waits, 99)
        what = f"100 jobs/s: created to {end}"
        measured = f"p50 {half:.1f} ms, p99 {most:.1f} ms"
        if targets is None:
            rows.append(Row(what, measured, "", f"{half:.1f} ms", "", None))
            continue
        reached = half <= targets[0] and most <= targets[1]
        target = f"p50 ≤ {targets[0]} ms, p99 ≤ {targets[1]} ms"
        rows.append(Row(what, measured, "", f"{half:.1f} / {most:.1f} ms", target, reached))
    return rows


def crash_row(taken: Sequence[float]) -> Row:
    """Return how soon a job runs again."""
    measured = f"{len(taken)} kills, median {statistics.median(taken):.1f} s"
    return Row("SIGKILL of a worker to rerun", measured, "", f"at most {max(taken):.1f} s", "≤ 5 s", max(taken) <= 5)


def finished_rows(burdened: Burdened) -> list[Row]:
    """Return what finished jobs cost those that run, with the plans as evidence."""
    none, many = (statistics.median(drained.rate for drained in runs) for runs in (burdened.none, burdened.many))
    what = f"drain with {burdened.rows:,} finished jobs"
    without, among = (min(one.whole_cost for one in runs) for runs in (burdened.none, burdened.many))
    measured, beside = f"{many:,.0f}/s, {among:.0f} µs", f"with none {none:,.0f}/s, {without:.0f} µs"
    rows = [Row(what, measured, beside, f"{many / none:.0%}", "≥ 90%", many / none >= 0.9)]
    whole = sum(planned.reads_all for planned in burdened.plans)
    plans = "\n\n".join(f"```sql\n{one.statement}\n```\n\n```\n{one.plan}\n```" for one in burdened.plans)
    evidence = f"# Plans with {burdened.rows:,} finished jobs\n\n{plans}"
    measured = f"{len(burdened.plans)} statements explained"
    beside = "`plans.md`"
    return [*rows, Row("statements that read all jobs", measured, beside, str(whole), "0", whole == 0, evidence)]


def memory_rows(resident: dict[str, float]) -> list[Row]:
    """Return the memory of each process."""
    return [
        Row(f"memory of `{name}`, idle", f"{size:.0f} MB", "", f"{size:.0f} MB", "< 120 MB", size < 120)
        for name, size in resident.items()
    ]


def flat_row(flat: Flat) -> Row:
    """Return the memory of Redis over many events and jobs."""
    waves = ", ".join(f"{after:.1f}" for after in flat.after)
    measured = f"{waves} MB after each tenth and each half of the jobs, {flat.peak:.1f} MB at most"
    what = f"memory of Redis over {flat.events:,} events and {flat.jobs:,} jobs"
    return Row(what, measured, "", f"+{flat.growth:.1f} MB", "≤ +2 MB", flat.growth <= _FLAT_MB)


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


def evidence_of(rows: Sequence[Row]) -> str:
    """Return what the table has no room for."""
    return "\n\n".join(row.evidence for row in rows if row.evidence)


def write(readme: Path, table: str) -> None:
    """Put the table between the two marks of README.md."""
    text = readme.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")
