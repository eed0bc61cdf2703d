"""The growth of a projection's next generation: batches of the record, applied to its shadow.

Owns one batch: what comes next on a stretch, and the transaction in which the place moves over it while the function
of the projection writes to the shadow. Both commit or neither does: what is repeated after a death was lost with it.
Never let a batch write to anything but the shadow and the place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg
from msgspec.structs import replace

from headrace.errors import FencedError
from headrace.events.lane import Stretch
from headrace.events.model import RecordedEvent
from headrace.streams.portion import Portion
from headrace.subscribers.again import events_of
from headrace.subscribers.contract import Subscription
from headrace.subscribers.metre import Metre
from headrace.subscribers.rebuild import stretches_to_checkpoints, wish_of
from headrace.subscribers.replay_place import Place, add_stretches, move_place, moved_over, take_place
from headrace.subscribers.shadow import Shadow
from headrace.subscribers.shadow_definition import tables_named
from headrace.tasks.run import Run
from headrace.transaction import Transaction

BATCH: Final = 2000
_SPAN: Final = 20_000
LATE: Final = "a later run goes on with this rebuild"

_START_OVER: Final = """
    WITH mine AS (UPDATE replays SET done = 0 WHERE job_id = $1 AND fence = $2 RETURNING job_id)
    UPDATE replay_lanes AS l SET position = begins_after FROM mine WHERE l.job_id = mine.job_id RETURNING l.lane
"""

Applied = tuple[Stretch, list[RecordedEvent]]
"""What is left of a stretch after a batch, and the batch."""


class Growth:
    """The shadow of one rebuild, and how far it has grown."""

    def __init__(self, run: Run, subscription: Subscription, metre: Metre, place: Place) -> None:
        self._run = run
        self._subscription = subscription
        self._wish = wish_of(subscription)
        self._metre = metre
        self._portion = Portion(BATCH)
        self.place = place
        self.shadow = Shadow(run.job_id, ())

    async def begin(self, tx: Transaction) -> None:
        """Go on with the shadow where it still fits, or make it anew and begin at the beginning.

        Raises:
            ConflictError: its tables cannot be made anew any more.
            FencedError: a later run is at it.
            asyncpg.InsufficientPrivilegeError: this role may make no schema.

        """
        connection = await tx.driver()
        self.shadow = Shadow(self._run.job_id, await tables_named(connection, self._subscription.tables))
        if await self.shadow.fits(connection):
            return
        if not await connection.fetch(_START_OVER, self._run.job_id, self._run.fence):
            raise FencedError(LATE)
        await self.shadow.make(connection)
        self.place = await take_place(connection, self._run.job_id, self._run.fence)

    async def extend(self, connection: asyncpg.Connection[asyncpg.Record]) -> int:
        """Find out how far live traffic has come; return how many positions lie between."""
        found = await stretches_to_checkpoints(connection, self._subscription.name)
        reached = {(one.generation, one.lane): one.after for one in self.place.left}
        if unknown := [one for one in found if (one.generation, one.lane) not in reached]:
            await add_stretches(connection, self.place.job_id, unknown)
        self.place.left = [replace(one, after=reached.get((one.generation, one.lane), one.after)) for one in found]
        return sum(one.upto - one.after for one in self.place.left)

    async def read(self, connection: asyncpg.Connection[asyncpg.Record], stretch: Stretch) -> Applied:
        """Return the next batch of a stretch, and what is left of the stretch after it."""
        part = replace(stretch, upto=min(stretch.after + _SPAN, stretch.upto))
        limit = self._metre.portion(self._portion.count)
        reached, events = await events_of(connection, part, self._wish, limit=limit)
        self._portion.moved(len(events), sum(len(event.data) for event in events))
        return replace(stretch, after=reached), events

    async def write(self, tx: Transaction, moved: Stretch, events: Sequence[RecordedEvent]) -> None:
        """Move the place and let the projection write to the shadow, in one transaction.

        Raises:
            FencedError: a later run has the place.
            PermanentError: the projection wrote elsewhere.

        """
        connection = await tx.driver()
        await move_place(connection, self.place, moved, done=len(events))
        if events:
            before = await self.shadow.enter(connection)
            await self._subscription.function(tx, events)
            await self.shadow.require_nothing_else(await tx.driver(), before)

    async def write_rest(self, tx: Transaction) -> list[Applied]:
        """Write all that is left, in one transaction; return what that was."""
        written = []
        for stretch in self.place.left:
            left = stretch
            while left.after < left.upto:
                left, events = await self.read(await tx.driver(), left)
                await self.write(tx, left, events)
                written.append((left, events))
        return written

    def note(self, moved: Stretch, events: Sequence[RecordedEvent]) -> None:
        """Note a batch that has committed."""
        moved_over(self.place, moved, done=len(events))
        self._run.report(self.place.done, max(self.place.total, self.place.done))
