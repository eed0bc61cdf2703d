"""A failing delivery becomes a job, so that it holds nothing up.

Owns the transaction that turns the first, live attempt of a delivery into a job of the task `headrace.deliver`: the job
begins with that attempt on record, and waits for the second as the subscription's retry policy says, or is dead at once
where no further attempt can help. A delivery that has its job already gets no second one; that of a replay is another
one than the live one. Never acknowledge a failing delivery before this has committed.
"""

from __future__ import annotations

import traceback
from uuid import UUID

import msgspec
from sqlalchemy import text

from headrace.clock import new_id
from headrace.database.record import Record
from headrace.database.states import JobState
from headrace.events.model import RecordedEvent
from headrace.jobs.call import Call, Overrides
from headrace.jobs.fingerprint import fingerprint_of
from headrace.jobs.retry import DEFAULT_MAX_LOSSES
from headrace.leases import Fence
from headrace.subscribers.contract import Subscription
from headrace.subscribers.delivery import scope_of
from headrace.subscribers.held_keys import hold
from headrace.telemetry.propagation import current_traceparent, parse, trace_id_of
from headrace.telemetry.scope import Scope, passing, staying
from headrace.transaction import Transaction, transaction

DELIVER = "headrace.deliver"
"""The task that tries a delivery again."""

QUEUE = "headrace"
"""Where these jobs wait: a flood of failing deliveries must not stand in the way of an application's own jobs."""

_MAX_TEXT = 16_000

_CLAIM = text("""
    INSERT INTO deliveries (subscription, event_id, job_id) VALUES (:subscription, :event_id, :job_id)
    ON CONFLICT DO NOTHING
""")

_FIRST_ATTEMPT = text("""
    INSERT INTO job_attempts
        (job_id, attempt, fence, outcome, type, message, traceback, trace_id, fingerprint, release)
    VALUES (:job_id, 1, 0, :outcome, :type, :message, :traceback, :trace_id, :fingerprint, nullif(:release, ''))
""")


class Failure(msgspec.Struct, frozen=True):
    """Why a live attempt failed: `outcome` is `failed`, `timed_out` or `rejected`."""

    error: BaseException
    outcome: str = "failed"
    traceparent: str | None = None
    """The span of the attempt: the job continues its trace."""
    again_seconds: float | None = None
    """When it is tried again, whatever the policy says: newer code will know the event."""

    @property
    def is_final(self) -> bool:
        """Whether no further attempt can help, whatever the policy says."""
        return self.outcome == "rejected"


async def become_job(
    record: Record, subscription: Subscription, event: RecordedEvent, failure: Failure, *, replay: UUID | None = None
) -> UUID | None:
    """Record the failed first attempt of a delivery, live or of a replay, and the job that goes on with it.

    Return the job; None where the delivery has one already.
    """
    with _continuing(failure):
        async with transaction(record) as tx:
            return await _record(tx, subscription, event, failure, replay=replay)


async def become_job_in_front(
    record: Record, subscription: Subscription, event: RecordedEvent, failure: Failure, *, fence: Fence | None
) -> UUID:
    """Do as `become_job` for a live delivery, and hold the event's key until the job lets go; return the job.

    Raises:
        FencedError: the lane is somebody else's by now; nothing was recorded. Without a fence nobody else is asked.

    """
    with _continuing(failure):
        async with transaction(record) as tx:
            await _record(tx, subscription, event, failure, replay=None)
            return await hold(tx, subscription.name, event, fence=fence)


def _continuing(failure: Failure) -> Scope:
    span = parse(failure.traceparent)
    return staying() if span is None else passing(span)


async def _record(
    tx: Transaction, subscription: Subscription, event: RecordedEvent, failure: Failure, *, replay: UUID | None
) -> UUID | None:
    retry = subscription.policy.retry
    again = not failure.is_final and retry.max_attempts > 1 and retry.allows(failure.error)
    job_id = new_id()
    row = {"subscription": scope_of(subscription.name, replay), "event_id": event.id, "job_id": job_id}
    if (await tx.connection.execute(_CLAIM, row)).rowcount == 0:
        return None
    delay = failure.again_seconds or (retry.delay_after(failure.error, 1) if again else None)
    call = delivery_call(subscription, event, delay_seconds=delay, replay=replay)
    if failure.again_seconds is not None:  # it was not tried: no attempt is taken from the policy's
        call = msgspec.structs.replace(call, max_attempts=call.max_attempts + 1)
    # first the attempt: a job that is born dead tells of it
    await tx.connection.execute(_FIRST_ATTEMPT, {"job_id": job_id, "release": tx.release} | _described(failure))
    await tx.enqueue_calls([call], ids=[job_id])
    return job_id


def delivery_call(
    subscription: Subscription, event: RecordedEvent, *, delay_seconds: float | None, replay: UUID | None
) -> Call:
    """Return the call of a delivery's job, whose first attempt has failed; without a delay it is born dead."""
    within = {} if replay is None else {"replay": replay}
    args = msgspec.json.encode({"subscription": subscription.name, "event_id": event.id} | within)
    losses = subscription.policy.retry.max_losses
    return Call(
        task=DELIVER,
        args=msgspec.Raw(args),
        queue=QUEUE,
        max_attempts=subscription.policy.retry.max_attempts,
        delay_seconds=delay_seconds,
        born=JobState.DEAD if delay_seconds is None else JobState.RETRYING,
        overrides=None if losses == DEFAULT_MAX_LOSSES else Overrides(max_losses=losses),
        tags=(
            f"subscription:{subscription.name}",
            f"subject:{event.key}",
            *(f"replay:{identity}" for identity in within.values()),
        ),
    )


def _described(failure: Failure) -> dict[str, str]:
    message = _storable(str(failure.error))
    return {
        "outcome": failure.outcome,
        "type": type(failure.error).__qualname__,
        "message": message,
        "fingerprint": fingerprint_of(failure.error, message),
        "traceback": _storable("".join(traceback.format_exception(failure.error))),
        "trace_id": trace_id_of(current_traceparent()),
    }


def _storable(message: str) -> str:
    """Return the end of a text without what PostgreSQL refuses: NUL and lone surrogates."""
    return message[-_MAX_TEXT:].replace("\x00", "\N{SYMBOL FOR NULL}").encode("utf-8", "replace").decode()
