"""The seam between the record and whatever carries its lanes: two sides of three methods each.

Owns the contract that every transport keeps; relay and subscribers know nothing else of it, and `tests/conformance`
holds each transport to it, sentence by sentence. The record decides and a transport carries: it may lose everything at
any time, and then has to say so, not to mend it. Never let a transport choose a position, and never trust one with what
the record does not hold.

The contract:

1. A lane is a sequence of entries at dense positions: after n comes n + 1. The record gives the positions.
2. `append` compares: a batch enters its lane whole where the lane ends at `before`, and otherwise nothing of it does.
   Either way it answers where the lane ends now. A batch of nothing asks only that.
3. A lane that is missing ends at 0; one in whose place something foreign stands ends at `WRONG_TYPE`; one that takes
   no more, because its room is used up, answers `FULL`. Appending to several lanes, each counts for itself.
4. `rebase` makes a lane that holds nothing and ends at a position, whatever stood there. Its groups may be lost by it.
5. `trim` takes away what lies at or before a position, as far as it likes; never more, and the lane ends where it did.
6. A group is one subscription's view of the lanes, and has one reader per lane at a time. Its place comes from the
   record: `rewind` makes the group where it is missing, makes its next entry the one after a position, and forgets what
   any reader of it was given. So what a dead reader had not acknowledged comes again to the next one, whoever it is.
7. `read` waits for entries that this group was not given yet, and gives those of each lane in the order of positions,
   with the bytes that were appended. Where entries are gone it goes on behind them: the reader sees the gap.
8. A group that is lost, a lane that is lost, and entries that were given to a stranger raise `GroupLostError`: at the
   read that meets it, or where nothing comes at all, at the end of its wait.
9. `acknowledge` lets the transport forget entries; it may do nothing at all, because the checkpoint says the same.
10. A transport that is away raises one of `connection.AWAY` from any method, and may have done its work or not. The
    same call may then be made again, and by two callers at once: 2 and 6 make that harmless.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

import msgspec

WRONG_TYPE: Final = -1
"""Where a lane ends that is none: something foreign stands in its place."""

FULL: Final = -2
"""The answer of a lane that takes no more for want of room: nothing was written, and where it ends was not said."""

WAIT_SECONDS: Final = 1.0
"""How long a read waits for its first entry."""


class Batch(msgspec.Struct, frozen=True):
    """Entries that follow one another on a lane: the first has the position after `before`."""

    lane: int
    before: int
    payloads: Sequence[bytes]

    @property
    def last(self) -> int:
        """The position of the last entry."""
        return self.before + len(self.payloads)


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One entry of a lane; `payload` is None where its body is no longer there."""

    position: int
    payload: bytes | None


class GroupLostError(Exception):
    """The group, or the lane below it, is not as this reader left it: rewind, and read again."""


class GroupTakenError(GroupLostError):
    """The group is there, and somebody else was given what this reader waits for."""


class LaneWriter(Protocol):
    """The relay's side of a transport."""

    async def append(self, batches: Sequence[Batch]) -> dict[int, int]:
        """Append each batch where it belongs, at most one per lane; return where each lane ends now.

        A lane that ends at its batch's `last` has it. Any other answer means that nothing was written to that lane.
        """
        ...

    async def rebase(self, lane: int, position: int) -> None:
        """Make the lane one that is empty and ends at `position`."""
        ...

    async def trim(self, acknowledged: Mapping[int, int]) -> int:
        """Take away what lies at or before the position of each lane; return how many entries that were."""
        ...


class LaneGroup(Protocol):
    """The side of one reader of one subscription."""

    async def read(
        self, lanes: Sequence[int], *, count: int, wait_seconds: float = WAIT_SECONDS
    ) -> dict[int, list[Entry]]:
        """Wait for entries; return those of each lane that has some, `count` of a lane at most. Do not cancel it.

        Raises:
            GroupLostError: rewind these lanes, and read again.

        """
        ...

    async def rewind(self, lane: int, position: int) -> None:
        """Make the group's next entry on this lane the one after `position`; whatever is missing is made."""
        ...

    async def acknowledge(self, handled: Mapping[int, Sequence[int]]) -> None:
        """Say that these positions of each lane are handled and on record."""
        ...


class Transport(Protocol):
    """What carries the lanes of one deployment."""

    def writer(self) -> LaneWriter:
        """Return the relay's side."""
        ...

    def group(self, subscription: str, reader: str) -> AbstractAsyncContextManager[LaneGroup]:
        """Open the side of a subscription for a reader whose name no other has."""
        ...
