"""A replay to a webhook: its deliveries are made anew, in batches.

Owns what `headrace.replay` does where it is asked for `webhook:<id>`. The deliveries of a portion of the record and the
move of the replay's place over it commit together, so each event becomes one delivery of the replay whoever dies; from
then on they are jobs as any delivery is, at the webhook's own rate. Never call a webhook here.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from headrace.database.driver import borrowed
from headrace.errors import ConflictError, NotFoundError
from headrace.events.filters import Filter
from headrace.events.lane import Stretch
from headrace.jobs.retry import PermanentError, Snooze
from headrace.subscribers.again import Wish, events_of
from headrace.subscribers.metre import Metre
from headrace.subscribers.replay_place import (
    PAUSED_SECONDS,
    SPAN,
    Place,
    is_paused,
    move_place,
    moved_over,
    take_place,
)
from headrace.tasks.run import Run
from headrace.transaction import transaction
from headrace.webhooks.deliveries import deliver_again
from headrace.webhooks.model import subscription_of

PORTION: Final = 1000

_LISTENS: Final = "SELECT types, filter::text AS filter, enabled FROM webhooks WHERE id = $1"


async def wish_of_webhook(connection: asyncpg.Connection[asyncpg.Record], webhook_id: UUID, asked: Wish) -> Wish:
    """Return what a webhook is for, of what is asked for.

    Raises:
        NotFoundError: there is no such webhook.
        ConflictError: it is disabled.

    """
    row = await connection.fetchrow(_LISTENS, webhook_id)
    if row is None:
        message = f"there is no webhook {webhook_id}"
        raise NotFoundError(message)
    if not row["enabled"]:
        message = "the webhook is disabled: enable it first"
        raise ConflictError(message)
    chosen = None if row["filter"] is None else Filter.of(msgspec.json.decode(row["filter"]))
    means = None if chosen is None else (lambda event: chosen.matches(event.data))
    return Wish(row["types"], asked.asked, asked.from_time, asked.to_time, means)


class WebhookReplay:
    """One run of a replay to a webhook."""

    def __init__(self, run: Run, webhook_id: UUID, asked: Wish, metre: Metre) -> None:
        self._run = run
        self._webhook_id = webhook_id
        self._asked = asked
        self._metre = metre

    async def run(self) -> int:
        """Make what deliveries are left to make; return how many the replay has made in all."""
        async with borrowed(self._run.ground.record.engine) as connection:
            place = await take_place(connection, self._run.job_id, self._run.fence)
        while stretches := place.next_stretches():
            for stretch in stretches:
                await self._portion(place, stretch)
        return place.done

    async def _portion(self, place: Place, stretch: Stretch) -> None:
        """Make the deliveries of the next events of a lane, and move the place over them."""
        part = msgspec.structs.replace(stretch, upto=min(stretch.after + SPAN, stretch.upto))
        async with self._run.ground.seats, transaction(self._run.ground.record) as tx:
            connection = await tx.driver()
            if await is_paused(connection, subscription_of(self._webhook_id)):
                raise Snooze(PAUSED_SECONDS)
            wish = await self._wish(connection)
            reached, events = await events_of(connection, part, wish, limit=self._metre.portion(PORTION))
            moved = msgspec.structs.replace(stretch, after=reached)
            await move_place(connection, place, moved, done=len(events))
            if events:
                await deliver_again(tx, self._webhook_id, events, self._run.job_id)
        moved_over(place, moved, done=len(events))
        self._run.report(place.done, max(place.total, place.done))
        await self._metre.pass_(len(events))

    async def _wish(self, connection: asyncpg.Connection[asyncpg.Record]) -> Wish:
        """Return what the webhook is for by now; where it takes nothing any more, trying again would mend nothing."""
        try:
            return await wish_of_webhook(connection, self._webhook_id, self._asked)
        except (ConflictError, NotFoundError) as error:
            raise PermanentError(str(error)) from error
