"""The rows of the table that concern events.

Owns the arithmetic between what was measured of events and what is shown. Ratios are of one run; a rate that was
measured in several turns counts with its median.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from bench.events import Latency, Moved
from bench.groups import Delivered
from bench.listeners import Listened
from bench.relay import Kept
from bench.table import Row

_TOGETHER = "three groups, one process each"
SINGLY, BATCHES, BARE = "FastStream, one by one", "FastStream, batches of 100", "a bare redis-py loop"
_LEAST = {SINGLY: 8.0, BATCHES: 1.0, BARE: 0.4}


def relay_row(moved: Sequence[Moved]) -> Row:
    """Return the relay's rate over a backlog."""
    rate = statistics.median(one.rate for one in moved)
    return Row("relay, record to stream", f"{rate:,.0f} events/s", "", f"{rate:,.0f}/s", "≥ 30,000/s", rate >= 30_000)


def busy_relay_row(kept: Kept) -> Row:
    """Return the relay's rate while events are being committed."""
    measured = f"{kept.moved:,.0f} events/s moved, {kept.behind:,} behind at the end"
    reached = kept.moved >= 10_000
    what = "relay, while producers commit"
    return Row(what, measured, f"committed {kept.committed:,.0f}/s", f"{kept.moved:,.0f}/s", "≥ 10,000/s", reached)


def takeover_row(taken: Sequence[float]) -> Row:
    """Return how soon another relay leads."""
    measured = f"{len(taken)} kills, median {statistics.median(taken):.1f} s"
    most = max(taken)
    return Row(
        "SIGKILL of the leading relay to the next event moved", measured, "", f"{most:.1f} s", "≤ 5 s", most <= 5
    )


def latency_row(latency: Latency) -> Row:
    """Return the latency of a lone event."""
    half, most = latency.percentile(50), latency.percentile(99)
    measured = f"p50 {half:.1f} ms, p99 {most:.1f} ms"
    reached = half <= 10 and most <= 30
    return Row("commit to handler, idle", measured, "", f"{half:.1f} / {most:.1f} ms", "p50 ≤ 10, p99 ≤ 30 ms", reached)


def group_rows(ours: Sequence[Delivered], others: Mapping[str, Sequence[Delivered]]) -> list[Row]:
    """Return three groups beside FastStream, one by one and by batches, and beside a bare loop."""
    own = statistics.median(one.rate for one in ours)
    rows = [Row(_TOGETHER, f"{own:,.0f} events/s", _cost(ours), f"{own:,.0f}/s", "", None)]
    for name, target in ((name, target) for name, target in _LEAST.items() if others.get(name)):
        other = statistics.median(one.rate for one in others[name])
        ratio = own / other
        rows.append(
            Row(
                _TOGETHER,
                f"{own:,.0f} events/s",
                f"{name}: {other:,.0f}/s, {_whole(others[name]):.0f} µs",
                f"{ratio:.2f}x",
                f"{'>' if target == 1 else '≥'} {target:g}x",
                ratio > 1 if target == 1 else ratio >= target,
            )
        )
    return rows


def lone_rows(writers: Sequence[Delivered], projections: Sequence[Delivered]) -> list[Row]:
    """Return what one process handles: with a transaction for each event, and as a projection."""
    rows = []
    for what, taken, target in (
        ("one process, a transaction for each event", writers, 1_500),
        ("one process, a projection onto a counter table", projections, 20_000),
    ):
        rate = statistics.median(one.rate for one in taken)
        rows.append(
            Row(what, f"{rate:,.0f} events/s", _cost(taken), f"{rate:,.0f}/s", f"≥ {target:,}/s", rate >= target)
        )
    return rows


def _cost(taken: Sequence[Delivered]) -> str:
    least = min(taken, key=lambda one: sum(one.cost.values()))
    parts = ", ".join(f"{name} {microseconds:.1f}" for name, microseconds in least.cost.items())
    return f"µs of processor time a delivery: {parts}"


def _whole(taken: Sequence[Delivered]) -> float:
    return min(sum(one.cost.values()) for one in taken)


def listener_rows(listened: Listened) -> list[Row]:
    """Return what many live tails of one API process take, and how soon one is shown its event."""
    half, most = (sorted(listened.milliseconds)[int(len(listened.milliseconds) * share)] for share in (0.5, 0.99))
    count, kilobytes = f"{listened.listeners:,} live tails", listened.bytes_each / 1000
    opened = f"all opened in {listened.opened_seconds:.1f} s, idle {listened.idle_share:.1%} of a processor"
    shown = f"one event to all of them {listened.everybody_seconds:.2f} s"
    return [
        Row(f"memory of each of {count}", opened, "", f"{kilobytes:.1f} KB", "≤ 30 KB", kilobytes <= 30),
        Row(f"commit to one of {count}", f"p50 {half:.1f} ms, p99 {most:.1f} ms", shown, f"{half:.1f} ms", "", None),
    ]
