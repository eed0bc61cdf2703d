"""Order within a replay to an ordered subscription: what comes after a failed delivery of its key waits for it.

Owns that waiting. A delivery whose key has an unfinished job in this replay is not tried: it becomes a job too, a child
of the last one of its key, and so follows when that one has succeeded. A dead one holds up those behind it, visibly,
until it is retried; cancelled, it takes them along, as in any workflow. The live order of a key knows nothing of it.
Never try an event past a job of its key that is not finished.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy import text

from headrace.clock import new_id
from headrace.database.driver import borrowed
from headrace.database.record import Bell, Record
from headrace.events.model import RecordedEvent
from headrace.jobs.insert import NewJob, insert_new_jobs
from headrace.subscribers.contract import Subscription
from headrace.subscribers.delivery import scope_of
from headrace.subscribers.failures import delivery_call
from headrace.transaction import Transaction, transaction

# A key's events have its positions in order, so the last of its jobs is that of its last position.
_UNFINISHED: Final = """
    SELECT DISTINCT ON (key) coalesce(e.subject, e.id::text) AS key, d.job_id
    FROM deliveries d JOIN jobs j ON j.id = d.job_id JOIN event_log e ON e.id = d.event_id
    LEFT JOIN lane_log l ON l.event_id = e.id LEFT JOIN lane_stretches s
        ON s.lane = l.lane AND l.position > s.after AND (s.upto IS NULL OR l.position <= s.upto)
    WHERE d.subscription = $1 AND j.state::text <> ALL ('{succeeded,cancelled,expired}')
    ORDER BY key, s.generation DESC, l.position DESC
"""
_WATCH: Final = text("""
    UPDATE jobs SET watched = true
    WHERE id = :id AND CAST(state AS text) NOT IN ('succeeded', 'cancelled', 'expired') RETURNING id
""")
_CLAIM: Final = text("""
    INSERT INTO deliveries (subscription, event_id, job_id) VALUES (:scope, :event_id, :job_id)
    ON CONFLICT DO NOTHING RETURNING job_id
""")
_LINK: Final = text("""
    INSERT INTO job_parents (child_id, parent_id, name, needs) VALUES (:child, :parent, 'before', 'succeeded')
""")


class Behind:
    """The keys of one replay that wait, each with the last of its jobs; `load` first."""

    def __init__(self, record: Record, subscription: Subscription, replay: UUID) -> None:
        self._record = record
        self._subscription = subscription
        self._replay = replay
        self._scope = scope_of(subscription.name, replay)
        self._last: dict[str, UUID] = {}

    async def load(self) -> None:
        """Find what an earlier run has left waiting."""
        async with borrowed(self._record.engine) as connection:
            self._last = dict(await connection.fetch(_UNFINISHED, self._scope))

    def failed(self, event: RecordedEvent, job_id: UUID) -> None:
        """Note the job that the delivery of an event has become."""
        self._last[event.key] = job_id

    async def take(self, event: RecordedEvent) -> bool:
        """Put an event behind the last job of its key; False where none is in the way."""
        before = self._last.get(event.key)
        if before is None:
            return False
        async with transaction(self._record) as tx:
            job_id = await self._put(tx, event, before)
        if job_id is None:
            del self._last[event.key]
            return False
        self._last[event.key] = job_id
        return True

    async def _put(self, tx: Transaction, event: RecordedEvent, before: UUID) -> UUID | None:
        """Make the job that waits; None where what it should wait for is done."""
        # the lock that this takes makes whoever ends that job wait: it then finds the link, or we find the end
        if (await tx.connection.execute(_WATCH, {"id": before})).one_or_none() is None:
            return None
        job_id = new_id()
        claim = {"scope": self._scope, "event_id": event.id, "job_id": job_id}
        if (await tx.connection.execute(_CLAIM, claim)).one_or_none() is None:
            return before  # an earlier run has put it there
        call = delivery_call(self._subscription, event, delay_seconds=None, replay=self._replay)
        waiting = msgspec.structs.replace(call, born=None)
        await insert_new_jobs(tx.connection, [NewJob(job_id, waiting, event.traceparent, waits_for=1)])
        await tx.connection.execute(_LINK, {"child": job_id, "parent": before})
        tx.bells.add(Bell.JOBS)
        return job_id
