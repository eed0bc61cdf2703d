"""How commands show what they found: for programs as one JSON document, for people as aligned text.

Owns the two forms. Standard output holds the answer and nothing else. Times are UTC to the second, durations rounded
to what a person reads. A text from the record is shown without its control characters, so that it cannot move the
cursor of the terminal it is shown on.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

import click
import msgspec

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86_400
_GAP: Final = "  "
NOTHING: Final = "–"


def json_option(command: click.decorators.FC) -> click.decorators.FC:
    """Add `--json` to a command."""
    return click.option("--json", "as_json", is_flag=True, help="one JSON document, in the shape of the API's answer")(
        command
    )


def echo_json(content: object) -> None:
    """Print one JSON document."""
    click.echo(msgspec.json.format(msgspec.json.encode(content), indent=2))


def echo_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print rows under their columns, aligned, numbers to the right; `empty` where there are none."""
    found = [list(row) for row in rows]
    if not found:
        click.echo(empty)
        return
    cells = [list(columns), *([_text(cell) for cell in row] for row in found)]
    widths = [max(_width(row[place]) for row in cells) for place in range(len(columns))]
    right = [all(isinstance(row[place], int | float) for row in found) for place in range(len(columns))]
    for row in cells:
        parts = [_padded(cell, width, right=to) for cell, width, to in zip(row, widths, right, strict=True)]
        click.echo(_GAP.join(parts).rstrip())


def echo_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Print names and values below each other; those without a value are left out."""
    found = [(name, _text(value)) for name, value in facts if value not in {None, ""}]
    width = max(_width(name) for name, _ in found)
    for name, value in found:
        click.echo(f"{_padded(name, width)}{_GAP}{value}")


def moment(at: datetime | None) -> str:
    """Return a time as a person reads it, in UTC."""
    return NOTHING if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def seconds(value: float | None) -> str:
    """Return a duration as a person reads it: `12 ms`, `3.4 s`, `5 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if value is None:
        return NOTHING
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < _MINUTE:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def one_line(text: str, longest: int = 100) -> str:
    """Return the first line of a text, cut where it is too long."""
    first = text.strip().split("\n", 1)[0]
    return first if len(first) <= longest else first[: longest - 1] + "…"


def _text(cell: object) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(cell))


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _padded(text: str, width: int, *, right: bool = False) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
