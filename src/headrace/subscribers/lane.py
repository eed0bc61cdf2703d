"""A lane in the hands of one subscription of this process.

Owns what is known about it: the lease it is held under, how far it is, and whether it is still ours. The consumer
prepares it (checkpoint loaded, group rewound), reads it and feeds it to a reactor, which handles the events and reports
what is done. Never touch a lane that is lost: its next owner has begun at the checkpoint already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from headrace.leases import Fence
from headrace.streams.transport import Entry
from headrace.subscribers.progress import Progress


class Lane:
    """One lane, owned under `fence`."""

    __slots__ = (
        "awaited", "draining", "fence", "from_record", "in_hand", "left", "lost", "number", "offered", "prepared",
        "progress", "reached", "saved", "stood_at", "suspect_until",
    )  # fmt: skip

    def __init__(self, number: int, fence: Fence) -> None:
        self.number = number
        self.fence = fence
        self.prepared = False
        self.lost = False
        """Somebody else owns it by now."""
        self.draining = False
        """It is to be given back: nothing more is read or begun, what was begun is finished. It stays so."""
        self.in_hand = 0
        """Events of it that waited on record and are in work."""
        self.begin(checkpoint=0, suspect_until=0)

    def begin(self, checkpoint: int, *, suspect_until: int) -> None:
        """Begin after a checkpoint; what lies up to `suspect_until` may have been handled by an earlier owner."""
        self.progress = Progress(checkpoint)
        self.saved = checkpoint
        """The position that the checkpoint on record has."""
        self.offered = checkpoint
        """Up to here everything is done, or in the queue of its key, or on record."""
        self.left = 0
        """Positions that were taken up and are left to the next owner."""
        self.suspect_until = suspect_until
        self.reached = 0
        """The record says that this process may have taken up what lies before."""
        self.awaited = checkpoint
        """Up to where the record had events at the last look."""
        self.stood_at = checkpoint
        """How far it was taken up at the last look."""
        self.from_record = False
        """The stream does not bring what the record has."""

    @property
    def next(self) -> int:
        """The position that is expected from the stream."""
        return self.progress.taken + 1

    @property
    def is_read(self) -> bool:
        """Whether entries of this lane are wanted at all."""
        return self.prepared and not self.lost and not self.draining

    @property
    def is_finished(self) -> bool:
        """Whether all that was begun is done and on record."""
        if not self.prepared:
            return True
        done = self.progress.in_flight <= self.left and self.in_hand == 0
        return done and self.saved == self.progress.position


class Reactor(Protocol):
    """What handles the entries of a subscription: concurrently, or as a projection."""

    async def begin(self, lane: Lane) -> None:
        """Get ready for a lane that was taken, before any of its entries is offered."""

    def has_room(self, lane: Lane) -> bool:
        """Tell whether more entries of this lane may be offered."""

    async def offer(self, lane: Lane, entries: Sequence[Entry], *, since_ns: int) -> None:
        """Take up entries that follow one another from `lane.next` on, of a read begun at `since_ns`.

        Those from an entry on that nobody placed are left: `lane.next` says where.
        """

    async def run(self) -> None:
        """Work until cancelled."""
