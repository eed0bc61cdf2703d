"""The task `headrace.webhook`: one delivery, tried over days.

Owns one attempt, from the look at the record to what becomes of the delivery. What hinders it (a pause, an open
circuit, a rate, a missing key) puts it off and costs no attempt; a webhook that is disabled or gone ends it as
cancelled. A call that was taken commits with the job's success. Every other call is written down apart, so that it is
on record whatever becomes of the attempt, and fails it. Dying between the call and the record makes the call again,
with the same `webhook-id`.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final
from uuid import UUID

import structlog

from headrace.application import Application
from headrace.errors import ConfigurationError
from headrace.jobs.retry import Cancel, PermanentError, RetryAfterError, Snooze
from headrace.subscribers.contract import Subscription
from headrace.tasks.contract import task
from headrace.tasks.run import Run
from headrace.webhooks.attempts import write_down
from headrace.webhooks.body import body_of
from headrace.webhooks.book import disable
from headrace.webhooks.calling import Called, Caller, Message, open_caller
from headrace.webhooks.deliveries import done
from headrace.webhooks.endpoint import become_waker, may_probe, note_failure, note_success, take_slot
from headrace.webhooks.fanout import fan_out
from headrace.webhooks.holding import give_up, hold, is_enabled, release
from headrace.webhooks.model import QUEUE, TASK, Held
from headrace.webhooks.schedule import OverDays
from headrace.webhooks.standing import Delivery, Standing, standing_of

logger = structlog.get_logger(__name__)

TIMEOUT_SECONDS: Final = 60.0
LEAD_SECONDS: Final = 1.5
"""How long before its start a delivery is back in a worker, where it waits for it exactly."""

_LATE_SECONDS: Final = 0.05
_HELD_SECONDS: Final = 3600.0
"""How long a held delivery waits that nobody lets go."""

_LOOK_AGAIN_SECONDS: Final = 300.0
GONE: Final = "the endpoint answered 410 Gone"


class EndpointError(Exception):
    """The endpoint did not take the delivery this time."""


class EndpointBusyError(RetryAfterError):
    """The endpoint did not take the delivery, and says when it may."""


@task(TASK, queue=QUEUE, retry=OverDays(), timeout_seconds=TIMEOUT_SECONDS)
async def deliver(run: Run, webhook_id: UUID, event_id: UUID) -> int | Snooze | Cancel:
    """Send an event to a webhook; return the status of the answer."""
    delivery = Delivery(run.job_id, webhook_id, event_id)
    async with run.read() as connection:
        standing = await standing_of(connection, delivery)
    if not standing.known or not standing.enabled:
        return await _end(run, delivery, standing)
    message = _message(run, delivery, standing)
    if (wait := await _turn(run, delivery, standing)) is not None:
        return wait
    try:
        called = await run.get(Caller).call(message)
    except ConfigurationError as error:
        logger.error("webhook_waits", webhook_id=str(webhook_id), reason=str(error))  # noqa: TRY400 - no fault of the code
        return await _hold(run, delivery, Held.SECRET, str(error), _LOOK_AGAIN_SECONDS)
    if called.is_taken:
        return await _taken(run, delivery, standing, called)
    return await _not_taken(run, delivery, called)


def _message(run: Run, delivery: Delivery, standing: Standing) -> Message:
    if standing.event is None:
        message = f"the event {delivery.event_id} is no longer on record"
        raise PermanentError(message)
    return Message(
        url=standing.url,
        secrets=standing.secrets,
        id=str(delivery.event_id),
        body=body_of(standing.event),
        replay_id=standing.replay_id,
        resend_count=run.attempt - 1,
    )


async def _end(run: Run, delivery: Delivery, standing: Standing) -> Cancel | Snooze:
    """End a delivery that has nowhere to go; that of a disabled webhook can be taken up again."""
    reason = f"the webhook is disabled: {standing.disabled_reason}" if standing.known else "the webhook was deleted"
    tx = await run.begin()
    if await is_enabled(tx, delivery.webhook_id):
        return Snooze(0.0)
    await hold(tx.connection, delivery.id, Held.DISABLED if standing.known else None, reason)
    return Cancel(reason)


async def _turn(run: Run, delivery: Delivery, standing: Standing) -> Snooze | None:
    """Return how long the delivery has to wait; None where it is its turn."""
    if standing.paused:
        return await _hold(run, delivery, Held.PAUSED, "the webhook is paused", _HELD_SECONDS)
    if standing.circuit_is_open and standing.circuit_seconds > 0:
        return await _hold_for_circuit(run, delivery, standing)
    if standing.interval_seconds is not None and (late := await _slot(run, delivery, standing)) is not None:
        return late
    if not standing.circuit_is_open:
        return None
    async with run.apart() as tx:
        probing = await may_probe(tx.connection, delivery.webhook_id)
    return None if probing else await _hold_for_circuit(run, delivery, standing)


async def _slot(run: Run, delivery: Delivery, standing: Standing) -> Snooze | None:
    """Wait for the start that the rate gives this delivery; a long way off, come back shortly before it."""
    seconds = standing.slot_seconds
    if seconds is None or seconds < -_LATE_SECONDS:
        async with run.apart() as tx:
            seconds = await take_slot(tx.connection, delivery.id, delivery.webhook_id)
    if seconds > LEAD_SECONDS + _LATE_SECONDS:
        return Snooze(seconds - LEAD_SECONDS)
    await asyncio.sleep(max(seconds, 0.0))
    return None


async def _hold_for_circuit(run: Run, delivery: Delivery, standing: Standing) -> Snooze:
    tx = await run.begin()
    wakes = None if standing.has_waker else await become_waker(tx.connection, delivery.webhook_id)
    await hold(tx.connection, delivery.id, Held.CIRCUIT, "the endpoint fails: deliveries wait until one succeeds")
    spread = random.uniform(1.0, 1.1)  # noqa: S311 - jitter, not a secret
    return Snooze((_HELD_SECONDS if wakes is None else wakes) * spread)


async def _hold(run: Run, delivery: Delivery, held: Held, reason: str, seconds: float) -> Snooze:
    tx = await run.begin()
    await hold(tx.connection, delivery.id, held, reason)
    return Snooze(seconds)


async def _taken(run: Run, delivery: Delivery, standing: Standing, called: Called) -> int:
    tx = await run.begin()
    await write_down(tx.connection, run, called)
    await done(tx, delivery.id, delivery.event_id)
    if standing.failures or standing.circuit_is_open:
        await note_success(tx.connection, delivery.webhook_id)
    if standing.holding:
        await release(tx, delivery.webhook_id)
    return called.status or 0


async def _not_taken(run: Run, delivery: Delivery, called: Called) -> Cancel | Snooze:
    """Write down a call that was not taken; end the delivery where the webhook is disabled by it, else fail.

    Raises:
        EndpointError: it is tried again on schedule.
        EndpointBusyError: it is tried again when the server has asked for.

    """
    caller, webhook_id = run.get(Caller), delivery.webhook_id
    reason = GONE if called.is_gone else None
    async with run.apart() as tx:
        await write_down(tx.connection, run, called)
        failed = await note_failure(
            tx.connection, webhook_id, asked_seconds=called.asked_seconds, disable_days=caller.disable_days
        )
        if failed is not None and failed.for_days and reason is None:
            reason = f"it has failed since {failed.failing_since:%Y-%m-%dT%H:%M:%SZ}, lastly: {called.error}"
        if reason is not None:
            await disable(tx, webhook_id, reason)
    if reason is None:
        if called.asked_seconds is None:
            raise EndpointError(called.error)
        raise EndpointBusyError(called.error or "", called.asked_seconds * random.uniform(1.0, 1.1))  # noqa: S311 - jitter
    await give_up(run.apart, webhook_id, f"the webhook is disabled: {reason}")
    tx = await run.begin()
    if await is_enabled(tx, webhook_id):
        return Snooze(0.0)
    await hold(tx.connection, delivery.id, Held.DISABLED, f"the webhook is disabled: {reason}")
    return Cancel(reason)


def calling_webhooks() -> Application:
    """Return what workers and consumers need besides the applications: the fan-out, the task and its caller."""
    listens: tuple[Subscription, ...] = (fan_out,)
    return Application(name=QUEUE, tasks=(deliver,), subscriptions=listens, providers={Caller: open_caller})
