"""Deliveries enter the record here: one event for one webhook is one job.

Owns the statements that make them, many at a time, in the caller's transaction; and the two ways in which one is made
outside the fan-out: somebody sends it again, or a replay does. What is sent again keeps its `webhook-id`, so that a
receiver who has handled it can pass over it. Never commit here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy import text

from headrace.clock import new_id
from headrace.database.record import Bell
from headrace.errors import ConflictError, NotFoundError
from headrace.events.model import RecordedEvent
from headrace.jobs.call import Call
from headrace.jobs.insert import NewJob, insert_new_jobs
from headrace.transaction import Transaction
from headrace.webhooks.model import QUEUE, TASK, subscription_of
from headrace.webhooks.schedule import ATTEMPTS

PORTION: Final = 2000
"""Deliveries that one statement makes."""

_MAKE = """
    WITH given AS (
        SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[])
            AS g(id, webhook_id, event_id, subscription)),
    made AS (
        INSERT INTO webhook_deliveries (id, webhook_id, event_id, replay_id, resend_of)
        SELECT id, webhook_id, event_id, $5, $6 FROM given)
    INSERT INTO deliveries (subscription, event_id, job_id) SELECT subscription, event_id, id FROM given
    ON CONFLICT (subscription, event_id) DO UPDATE SET job_id = excluded.job_id
"""

# What is done needs no row beside those that can still be tried again; `webhook_deliveries` remembers it.
_DONE = text("DELETE FROM deliveries WHERE event_id = :event_id AND job_id = :id")

_FIND = text("""
    SELECT d.webhook_id, d.event_id, d.replay_id, w.enabled, j.state::text AS state, e.traceparent
    FROM webhook_deliveries d
    LEFT JOIN webhooks w ON w.id = d.webhook_id
    LEFT JOIN jobs j ON j.id = d.id
    LEFT JOIN event_log e ON e.id = d.event_id
    WHERE d.id = :id
""")

_AT_ONCE = text("""
    UPDATE jobs SET run_at = now() WHERE id = :id AND state IN ('scheduled', 'retrying') AND run_at > now()
""")

_UNFINISHED: Final = frozenset({"scheduled", "pending", "queued", "running", "retrying"})


class Wish(msgspec.Struct, frozen=True):
    """One delivery that is to be made."""

    webhook_id: UUID
    event_id: UUID
    traceparent: str
    """Of the event: the delivery belongs to its trace."""


async def deliver_all(
    tx: Transaction, wishes: Sequence[Wish], *, replay_id: UUID | None = None, resend_of: UUID | None = None
) -> list[UUID]:
    """Make deliveries, each with its job; return their ids in the same order."""
    made: list[UUID] = []
    for begin in range(0, len(wishes), PORTION):
        made += await _deliver(tx, wishes[begin : begin + PORTION], replay_id, resend_of)
    return made


async def deliver_again(
    tx: Transaction, webhook_id: UUID, events: Sequence[RecordedEvent], replay_id: UUID
) -> list[UUID]:
    """Make the deliveries of a replay to one webhook, whatever became of earlier ones; return their ids.

    They stand in `deliveries` as `webhook:<id>@<replay id>`, and carry the header `headrace-replay`.
    """
    wishes = [Wish(webhook_id, event.id, event.traceparent) for event in events]
    return await deliver_all(tx, wishes, replay_id=replay_id)


async def send_again(tx: Transaction, delivery_id: UUID, *, of: UUID | None = None) -> UUID:
    """Send a delivery again, now; return the id of the one that does it.

    One that is still under way is brought forward and keeps its id; one that has ended is made anew, with a schedule of
    its own.

    Raises:
        NotFoundError: there is no such delivery, none of the webhook `of`, or its webhook is gone.
        ConflictError: the webhook is disabled, or the event has left the record.

    """
    found = (await tx.connection.execute(_FIND, {"id": delivery_id})).one_or_none()
    if found is None or (of is not None and found.webhook_id != of) or found.enabled is None:
        message = f"there is no delivery {delivery_id}"
        raise NotFoundError(message)
    if not found.enabled:
        message = "the webhook is disabled: enable it first"
        raise ConflictError(message)
    if found.state in _UNFINISHED:
        await tx.connection.execute(_AT_ONCE, {"id": delivery_id})
        tx.bells.add(Bell.JOBS)
        return delivery_id
    if found.traceparent is None:
        message = f"the event {found.event_id} is no longer on record"
        raise ConflictError(message)
    wish = Wish(found.webhook_id, found.event_id, found.traceparent)
    return (await deliver_all(tx, [wish], replay_id=found.replay_id, resend_of=delivery_id))[0]


async def done(tx: Transaction, delivery_id: UUID, event_id: UUID) -> None:
    """Note that a delivery was taken."""
    await tx.connection.execute(_DONE, {"id": delivery_id, "event_id": event_id})


async def _deliver(
    tx: Transaction, wishes: Sequence[Wish], replay_id: UUID | None, resend_of: UUID | None
) -> list[UUID]:
    jobs = [NewJob(new_id(), _call(wish), wish.traceparent) for wish in wishes]
    ids = [job.id for job in jobs]
    scope = "" if replay_id is None else f"@{replay_id}"
    await insert_new_jobs(tx.connection, jobs)
    await (await tx.driver()).execute(
        _MAKE,
        ids,
        [wish.webhook_id for wish in wishes],
        [wish.event_id for wish in wishes],
        [subscription_of(wish.webhook_id) + scope for wish in wishes],
        replay_id,
        resend_of,
    )
    tx.bells.add(Bell.JOBS)
    return ids


def _call(wish: Wish) -> Call:
    subscription = subscription_of(wish.webhook_id)
    return Call(
        task=TASK,
        args=msgspec.Raw(msgspec.json.encode({"webhook_id": wish.webhook_id, "event_id": wish.event_id})),
        queue=QUEUE,
        max_attempts=ATTEMPTS,
        concurrency_key=subscription,
        tags=(f"subscription:{subscription}",),
    )
