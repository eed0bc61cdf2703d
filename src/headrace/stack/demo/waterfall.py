"""A trace as a waterfall for a terminal.

Owns the layout: children below their parents in the order of their start, a bar for the time of each. Spans whose
parent did not arrive are shown as roots, so that nothing is hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from headrace.stack.demo.client import Span

_WIDTH = 36
_COLOURS = {"server": "cyan", "producer": "yellow", "consumer": "green", "client": "magenta"}


def waterfall(spans: Sequence[Span]) -> Table:
    """Return the table of a trace's spans; there must be at least one."""
    begin = min(span.start for span in spans)
    length = max(max(span.end for span in spans) - begin, 1e-6)
    table = Table(box=None, padding=(0, 1), show_header=False)
    for depth, span in _in_order(spans):
        name = Text("  " * depth + span.name, style="bold red" if span.status == "error" else "")
        took = f"{(span.end - span.start) * 1000:.1f} ms"
        table.add_row(name, Text(span.service.removeprefix("headrace-"), style="dim"), _bar(span, begin, length), took)
    return table


def _in_order(spans: Sequence[Span]) -> Iterator[tuple[int, Span]]:
    known = {span.span_id for span in spans}
    children: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda one: one.start):
        children.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)
    waiting = [(0, span) for span in reversed(children.get("", []))]
    while waiting:
        depth, span = waiting.pop()
        yield depth, span
        waiting += [(depth + 1, child) for child in reversed(children.get(span.span_id, []))]


def _bar(span: Span, begin: float, length: float) -> Text:
    left = int((span.start - begin) / length * (_WIDTH - 1))
    width = max(1, round((span.end - span.start) / length * _WIDTH))
    bar = " " * left + "━" * min(width, _WIDTH - left)
    return Text(bar.ljust(_WIDTH), style=_COLOURS.get(span.kind, "white"))
