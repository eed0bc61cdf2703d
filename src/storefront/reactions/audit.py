"""Who did what to which order: the trail that an auditor reads.

Owns `storefront_audit`: one row per event, written in the transaction of its delivery, so an event has one row however
often it is delivered. Rows are never changed.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.subscribers.contract import subscriber
from headrace.subscribers.delivery import Delivery
from headrace.telemetry.propagation import trace_id_of
from storefront.events import EVENTS

_INSERT = text("""
    INSERT INTO storefront_audit (event_id, at, actor, action, subject, trace_id)
    VALUES (:event_id, :at, :actor, :action, :subject, :trace_id)
    ON CONFLICT (event_id) DO NOTHING
""")

# Newest first is by id: a UUIDv7 is a time. No subject means all of them.
_LIST = text("""
    SELECT at, actor, action, subject, event_id, trace_id FROM storefront_audit
    WHERE event_id < :before AND (CAST(:subject AS text) IS NULL OR subject = :subject)
    ORDER BY event_id DESC
    LIMIT :limit
""")

AT_THE_TOP = UUID(int=2**128 - 1)


class AuditEntry(msgspec.Struct, frozen=True):
    """One thing that somebody did."""

    at: datetime
    actor: str
    action: str
    """The event's type."""
    subject: str
    event_id: UUID
    trace_id: str


class _Act(Protocol):
    """What every event of the storefront tells."""

    @property
    def order_id(self) -> UUID: ...

    @property
    def actor(self) -> str: ...


@subscriber("storefront.audit", *EVENTS)
async def record_act(delivery: Delivery, act: _Act) -> None:
    """Put one act on the audit trail."""
    tx = await delivery.begin()
    row = {
        "event_id": delivery.event.id,
        "at": delivery.event.time,
        "actor": act.actor,
        "action": delivery.event.type,
        "subject": str(act.order_id),
        "trace_id": trace_id_of(delivery.event.traceparent),
    }
    await tx.connection.execute(_INSERT, row)


async def list_acts(connection: AsyncConnection, *, subject: str | None, before: UUID, limit: int) -> list[AuditEntry]:
    """Return what was done, of one subject or of all, newest first, that comes after `before`."""
    found = await connection.execute(_LIST, {"subject": subject, "before": before, "limit": limit})
    return [AuditEntry(*row) for row in found]
