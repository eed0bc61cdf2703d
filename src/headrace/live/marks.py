"""Marks: how far somebody has seen the log, as one position for each lane.

Owns the value and its text, the positions of the lanes 0, 1, 2 … joined by hyphens (`12-40-7-3`), which is the id of an
event in a live tail. Positions are dense, so two marks tell exactly what lies between them, whichever process made
them and whatever became of Redis. A lane that a text does not reach is at 0: it was made later. Never let a text say
anything else than a place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from headrace.errors import FieldError, InvalidInputError

_TEXT: Final = re.compile(r"\d{1,18}(?:-\d{1,18}){0,1023}")
_LAST_EVENT_ID: Final = "last_event_id"


class Marks:
    """A position for each lane; it only moves forward."""

    __slots__ = ("_positions",)

    def __init__(self, positions: Mapping[int, int] | Iterable[tuple[int, int]] = ()) -> None:
        self._positions = dict(positions)

    @classmethod
    def of(cls, text: str) -> Marks:
        """Read marks from their text.

        Raises:
            InvalidInputError: it is none of ours.

        """
        if not _TEXT.fullmatch(text):
            message = "this is no id of a live tail: give back the last one as it came"
            raise refused(message)
        return cls(enumerate(map(int, text.split("-"))))

    def __getitem__(self, lane: int) -> int:
        """Return the position on a lane, 0 where it was never reached."""
        return self._positions.get(lane, 0)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield each lane with its position."""
        return iter(self._positions.items())

    def __str__(self) -> str:
        """Return the text."""
        positions = self._positions
        return "-".join([str(positions.get(lane, 0)) for lane in range(max(positions, default=0) + 1)])

    def reach(self, lane: int, position: int) -> None:
        """Move forward to a position; one that lies behind changes nothing."""
        if position > self._positions.get(lane, 0):
            self._positions[lane] = position

    def copy(self) -> Marks:
        """Return marks at the same place."""
        return Marks(self._positions)

    def behind(self, others: Marks) -> int:
        """Return how many positions lie between these and others that are further."""
        return sum(position - self[lane] for lane, position in others if position > self[lane])


def refused(why: str) -> InvalidInputError:
    """Return the error for an id that cannot be resumed from."""
    return InvalidInputError(why, (FieldError(_LAST_EVENT_ID, why),))
