"""The task `headrace.deliver`: a delivery that failed live, tried again as a job.

Owns the second and all further attempts to handle an event. The job's retry policy is its subscription's. What the
subscriber writes commits together with the inbox and the job's outcome, so its effects happen once even where a live
attempt succeeds late. A delivery whose subscription or event is gone is dead with that reason; one that only newer code
can read waits for it, which counts as no attempt. Never acknowledge on the belt from here: the live attempt did when
the job was born.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any
from uuid import UUID

import msgspec

from headrace.application import Application
from headrace.events.model import RecordedEvent
from headrace.events.patterns import matches
from headrace.events.queries import recorded_event
from headrace.events.reading import Reading, UnknownEventError, UnreadableEventError
from headrace.jobs.retry import PermanentError, Snooze
from headrace.subscribers.contract import Subscription
from headrace.subscribers.delivery import AlreadyHandled, Delivery
from headrace.subscribers.failures import DELIVER, QUEUE
from headrace.subscribers.listening import UNKNOWN_WAIT_SECONDS, wanted_by
from headrace.tasks.contract import Task
from headrace.tasks.policy import Policy
from headrace.tasks.run import Run


def redelivering(subscriptions: Mapping[str, Subscription]) -> Application:
    """Return what workers need besides the applications: the task that tries their failed deliveries again."""
    return Application(name="headrace", tasks=(Redelivery(subscriptions),))


class Redelivery(Task[[str, UUID, UUID | None], str]):
    """The task over the subscriptions of the loaded applications."""

    def __init__(self, subscriptions: Mapping[str, Subscription]) -> None:
        """Deliver to these subscriptions."""
        super().__init__(DELIVER, _delivering(subscriptions), Policy(queue=QUEUE))
        self._subscriptions = subscriptions

    def policy_for(self, _args: msgspec.Struct) -> Policy:
        """Return the policy of the job's subscription."""
        found = self._subscriptions.get(getattr(_args, "subscription", ""))
        if found is None:
            return self.policy
        return Policy(queue=QUEUE, retry=found.policy.retry, timeout_seconds=found.policy.timeout_seconds)


def _delivering(
    subscriptions: Mapping[str, Subscription],
) -> Callable[[Run, str, UUID, UUID | None], Coroutine[Any, Any, str]]:
    async def deliver(run: Run, subscription: str, event_id: UUID, replay: UUID | None = None) -> str:
        """Try again to handle an event that a subscription failed to handle, live or in a replay."""
        found = subscriptions.get(subscription)
        if found is None:
            message = f"no application of this worker has the subscription {subscription}"
            raise LookupError(message)
        async with run.read() as connection:
            event = await recorded_event(connection, event_id)
        if event is None:
            message = f"the event {event_id} is no longer on record"
            raise PermanentError(message)
        return await _redeliver(run, found, event, replay)

    return deliver


async def _redeliver(run: Run, subscription: Subscription, event: RecordedEvent, replay: UUID | None) -> str:
    if not matches(subscription.patterns, event.type):
        message = f"{subscription.name} does not listen to {event.type} any more"
        raise PermanentError(message)
    if not wanted_by(subscription).means(event):
        return "passed over: its filter leaves the event out"
    delivery = Delivery(subscription.name, event, attempt=run.attempt, providers=run, begin=run.begin, replay=replay)
    try:
        await subscription.function(delivery, _data_of(subscription, event))
        await delivery.begin()
    except AlreadyHandled:
        return "handled before"
    return "handled"


def _data_of(subscription: Subscription, event: RecordedEvent) -> Any:  # noqa: ANN401 - one of the subscription's events
    try:
        return Reading(subscription.events).data_of(event)
    except UnreadableEventError as error:
        raise PermanentError(str(error)) from error
    except UnknownEventError as error:
        raise Snooze(UNKNOWN_WAIT_SECONDS) from error
