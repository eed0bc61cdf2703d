"""How a delivery stands when its turn comes: all that the record knows, in one read.

Owns the statement and the value `Standing`. Reading takes no lock and changes nothing.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.webhooks.body import Fact
from headrace.webhooks.rotation import VALID_FORMER

_READ: Final = text(f"""
    SELECT w.id IS NOT NULL AS known, coalesce(w.enabled, false) AS enabled, w.disabled_reason,
           coalesce(s.paused, false) AS paused, w.url, w.secret,
           {VALID_FORMER},
           w.rate_per_seconds / w.rate_limit AS interval_seconds,
           extract(epoch FROM d.slot_at - clock_timestamp())::float8 AS slot_seconds,
           w.failures, w.circuit_until IS NOT NULL AS circuit_is_open,
           extract(epoch FROM w.circuit_until - clock_timestamp())::float8 AS circuit_seconds,
           coalesce(w.waker_until > clock_timestamp(), false) AS has_waker,
           EXISTS (SELECT FROM webhook_deliveries h
                   WHERE h.webhook_id = w.id AND h.held IN ('circuit', 'paused', 'secret')) AS holding,
           d.replay_id, e.source_id, e.source, e.type, e.version, e.subject, e.time, e.data::text AS data,
           e.attributes::text AS attributes
    FROM (SELECT CAST(:job_id AS uuid) AS job_id, CAST(:webhook_id AS uuid) AS webhook_id,
                 CAST(:event_id AS uuid) AS event_id) AS given
    LEFT JOIN webhooks w ON w.id = given.webhook_id
    LEFT JOIN subscriptions s ON s.name = 'webhook:' || given.webhook_id
    LEFT JOIN webhook_deliveries d ON d.id = given.job_id
    LEFT JOIN event_log e ON e.id = given.event_id
""")  # noqa: S608 - composed of constants


class Delivery(msgspec.Struct, frozen=True):
    """Which delivery: its id is its job's."""

    id: UUID
    webhook_id: UUID
    event_id: UUID


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What is known when a delivery's turn comes."""

    known: bool
    """Whether its webhook is there."""
    enabled: bool
    disabled_reason: str | None
    paused: bool
    url: str
    secrets: tuple[str, ...]
    """Encrypted, the latest one first."""
    interval_seconds: float | None
    """Between two starts, where the webhook has a rate."""
    slot_seconds: float | None
    """Until the start that this delivery has been given; negative where it has passed."""
    failures: int
    circuit_is_open: bool
    circuit_seconds: float
    """Until one delivery may try; negative where one may."""
    has_waker: bool
    """Whether some delivery is sure to come and look at the circuit."""
    holding: bool
    """Whether deliveries wait for this webhook to take something."""
    replay_id: UUID | None
    event: Fact | None
    """None where it has left the record."""


async def standing_of(connection: AsyncConnection, delivery: Delivery) -> Standing:
    """Return how a delivery stands."""
    given = {"job_id": delivery.id, "webhook_id": delivery.webhook_id, "event_id": delivery.event_id}
    return _standing((await connection.execute(_READ, given)).one())


def _standing(row: Row[Any]) -> Standing:
    return Standing(
        known=row.known,
        enabled=row.enabled,
        disabled_reason=row.disabled_reason,
        paused=row.paused,
        url=row.url or "",
        secrets=() if row.secret is None else (row.secret, *row.former_secrets),
        interval_seconds=row.interval_seconds,
        slot_seconds=row.slot_seconds,
        failures=row.failures or 0,
        circuit_is_open=bool(row.circuit_is_open),
        circuit_seconds=row.circuit_seconds or 0.0,
        has_waker=row.has_waker,
        holding=row.holding,
        replay_id=row.replay_id,
        event=None if row.source_id is None else _event(row),
    )


def _event(row: Row[Any]) -> Fact:
    return Fact(
        source_id=row.source_id,
        source=row.source,
        type=row.type,
        subject=row.subject,
        time=row.time,
        data=row.data,
        version=row.version,
        attributes=row.attributes,
    )
