"""How far a subscription is on one lane.

Owns the arithmetic of positions: what was taken from the stream, what of it is done, and the contiguous position up to
which everything is done, which is what the checkpoint says. Positions are dense, so what is missing is known without
looking. Never move the position over something that is not done.
"""

from __future__ import annotations

from collections.abc import Iterable


class Progress:
    """Begins at a checkpoint: everything up to it is done."""

    __slots__ = ("_ahead", "position", "taken")

    def __init__(self, checkpoint: int) -> None:
        self.position = checkpoint
        """Up to here everything is done."""
        self.taken = checkpoint
        """Up to here everything was taken up."""
        self._ahead: set[int] = set()

    @property
    def in_flight(self) -> int:
        """How many positions were taken up and are not done."""
        return self.taken - self.position - len(self._ahead)

    @property
    def ahead(self) -> int:
        """How many positions are done above one that is not."""
        return len(self._ahead)

    def take(self, last: int) -> None:
        """Take up everything to `last`."""
        self.taken = last

    def done(self, positions: Iterable[int]) -> None:
        """Note that these positions are done, in any order."""
        position, ahead = self.position, self._ahead
        for number in positions:
            if number == position + 1:
                position = number
            elif number > position:
                ahead.add(number)
        while ahead and position + 1 in ahead:
            position += 1
            ahead.remove(position)
        self.position = position
