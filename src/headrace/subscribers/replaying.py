"""The task `headrace.replay`: one subscriber is given events of the record again.

Owns the way through the record: a portion of a lane, its keys side by side, each in order; then the place moves over
it. Live traffic goes on meanwhile and knows nothing of it. Each event is a delivery of this replay: what it writes
through its session happens once, though the worker be killed in the middle, because the inbox has it under the replay's
own scope, and what fails becomes a job and holds nothing up. A paused subscription is waited for; a cancel comes at the
next await, and a retry of the cancelled job goes on where it was. Never read Redis here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, cast
from uuid import UUID

import asyncpg
import msgspec
import structlog
from sqlalchemy.exc import SQLAlchemyError

from headrace.database.away import DRIVER_ERRORS, is_record_away
from headrace.database.driver import borrowed
from headrace.errors import UnavailableError
from headrace.events.lane import Stretch
from headrace.events.model import RecordedEvent
from headrace.jobs.retry import Retry, Snooze
from headrace.loops import Pace, Stop
from headrace.subscribers.again import events_of
from headrace.subscribers.behind import Behind
from headrace.subscribers.contract import Subscription
from headrace.subscribers.deadlines import Worker
from headrace.subscribers.delivery import scope_of
from headrace.subscribers.failures import QUEUE, Failure, become_job
from headrace.subscribers.handling import Handled, Handling
from headrace.subscribers.inbox import enter, settled
from headrace.subscribers.metre import Metre
from headrace.subscribers.replay import ATTEMPTS, LOSSES, REPLAY, Selection
from headrace.subscribers.replay_place import (
    PAUSED_SECONDS,
    SPAN,
    Place,
    is_paused,
    move_place,
    moved_over,
    take_place,
)
from headrace.tasks.contract import Task
from headrace.tasks.policy import Policy
from headrace.tasks.run import Run
from headrace.webhooks.model import webhook_of
from headrace.webhooks.replaying import WebhookReplay

logger = structlog.get_logger(__name__)

AT_ONCE: Final = 16
"""How many keys are worked on at once."""

PORTION: Final = 500
_UNRECORDED: Final = (UnavailableError, SQLAlchemyError, *DRIVER_ERRORS)
_PACE: Final = Pace(0.0, first_backoff_seconds=0.1, last_backoff_seconds=2.0)

Work = Callable[..., Coroutine[Any, Any, int]]


class Replay(Task[..., int]):
    """The task over the subscriptions of the loaded applications."""

    def __init__(self, subscriptions: Mapping[str, Subscription]) -> None:
        """Replay to these subscriptions."""
        retry = Retry(max_attempts=ATTEMPTS, max_losses=LOSSES)
        super().__init__(REPLAY, _replaying(subscriptions), Policy(queue=QUEUE, retry=retry, timeout_seconds=None))


def _replaying(subscriptions: Mapping[str, Subscription]) -> Work:
    async def replay(  # noqa: PLR0913, PLR0917 - what can be asked for
        run: Run,
        subscription: str,
        from_time: datetime | None = None,
        to_time: datetime | None = None,
        from_position: int | dict[str, int] | None = None,
        types: tuple[str, ...] | None = None,
        rate_per_second: float | None = None,
    ) -> int:
        """Give a subscription events of the record again; return how many."""
        selection = Selection(
            from_time=from_time,
            to_time=to_time,
            from_position=from_position,
            types=types,
            rate_per_second=rate_per_second,
        )
        if (webhook_id := webhook_of(subscription)) is not None:
            return await WebhookReplay(run, webhook_id, selection.wish, Metre(rate_per_second)).run()
        found = subscriptions.get(subscription)
        if found is None:
            message = f"no application of this worker has the subscription {subscription}"
            raise LookupError(message)
        return await Replaying(run, found, selection).run()

    return replay


class Replaying:
    """One run of a replay."""

    def __init__(self, run: Run, subscription: Subscription, selection: Selection) -> None:
        self._run = run
        self._subscription = subscription
        self._wish = selection.wish_of(subscription)
        self._metre = Metre(selection.rate_per_second)
        self._scope = scope_of(subscription.name, run.job_id)
        self._record = run.ground.record
        self._handling = Handling(
            subscription, self._record, providers=run.ground.providers, gate=run.ground.seats, replay=run.job_id
        )
        self._behind = Behind(self._record, subscription, run.job_id) if subscription.policy.ordered else None
        self._suspect_until: dict[tuple[int, int], int] = {}
        """Up to which positions an earlier run may have handled events that its place does not say."""
        self._entering: list[UUID] = []
        """What was handled without a session: the inbox is still to be told."""

    async def run(self) -> int:
        """Replay what is left; return how many events the replay has dealt with in all."""
        async with borrowed(self._record.engine) as connection:
            place = await take_place(connection, self._run.job_id, self._run.fence)
        self._run.report(place.done, place.total)
        if self._run.fence > 1:
            self._suspect_until = {(one.generation, one.lane): one.after + SPAN for one in place.left}
        if self._behind is not None:
            await self._behind.load()
        deadlines = asyncio.create_task(self._handling.deadlines.run())
        try:
            while stretches := place.next_stretches():
                for stretch in stretches:
                    await self._portion(place, stretch)
        finally:
            deadlines.cancel()
            await asyncio.wait([deadlines])
        return place.done

    async def _portion(self, place: Place, stretch: Stretch) -> None:
        """Deal with the next events of a lane, and move the place over them."""
        part = msgspec.structs.replace(stretch, upto=min(stretch.after + SPAN, stretch.upto))
        async with borrowed(self._record.engine) as connection:
            if await is_paused(connection, self._subscription.name):
                self._run.report(place.done, place.total, "the subscription is paused")
                raise Snooze(PAUSED_SECONDS)
            reached, events = await events_of(connection, part, self._wish, limit=self._metre.portion(PORTION))
            known = await self._known(connection, stretch, events)
        await self._metre.pass_(len(events))
        await self._handle_all([event for event in events if event.id not in known])
        async with borrowed(self._record.engine) as connection:
            if self._entering:
                await enter(connection, self._scope, self._entering)
            moved = msgspec.structs.replace(stretch, after=reached)
            await move_place(connection, place, moved, done=len(events))
        self._entering.clear()
        moved_over(place, moved, done=len(events))
        self._run.report(place.done, max(place.total, place.done))

    async def _known(
        self, connection: asyncpg.Connection[asyncpg.Record], stretch: Stretch, events: Sequence[RecordedEvent]
    ) -> set[UUID]:
        """Return those of the next events of a lane that an earlier run of this replay has handled."""
        until = self._suspect_until.get((stretch.generation, stretch.lane), 0)
        if not events or stretch.after >= until:
            return set()
        return await settled(connection, self._scope, [one.id for one in events])

    async def _handle_all(self, events: Sequence[RecordedEvent]) -> None:
        """Handle events, different keys at the same time, those of one key in order."""
        keys: dict[str, list[RecordedEvent]] = {}
        for event in events:
            keys.setdefault(event.key, []).append(event)
        waiting = deque(keys.values())
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(AT_ONCE, len(waiting))):
                    group.create_task(self._work(waiting))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors  # what it is decides whether the job's attempt counts

    async def _work(self, waiting: deque[list[RecordedEvent]]) -> None:
        me = cast("Worker", asyncio.current_task())
        while waiting:
            for event in waiting.popleft():
                await self._handle(event, me)

    async def _handle(self, event: RecordedEvent, me: Worker) -> None:
        """Handle one event until it is handled, or has its job."""
        if self._behind is not None and await self._behind.take(event):
            return
        failures = 0
        while True:
            match await self._handling.attempt(event, me):
                case Handled.TO_ENTER:
                    self._entering.append(event.id)
                    return
                case Handled.ENTERED:
                    return
                case Failure() as failure:
                    if await self._give_up(event, failure):
                        return
            failures += 1
            await Stop().wait(_PACE.backoff_seconds(failures))

    async def _give_up(self, event: RecordedEvent, failure: Failure) -> bool:
        """Turn a failed delivery into a job; False where the record itself is away: then nothing has failed yet."""
        if is_record_away(failure.error):
            return False
        try:
            job_id = await become_job(self._record, self._subscription, event, failure, replay=self._run.job_id)
        except _UNRECORDED as error:
            logger.warning("delivery_waits", subscription=self._scope, event_id=str(event.id), error=repr(error))
            return False
        if self._behind is not None and job_id is not None:
            self._behind.failed(event, job_id)
        logger.warning("delivery_failed", subscription=self._scope, event_id=str(event.id), error=repr(failure.error))
        return True
