"""What a webhook's endpoint may be asked at this moment, over all workers: its rate and its circuit.

Owns the columns of `webhooks` that change with calls, each changed by one statement that decides by the record's clock.
A rate gives away starts, one every `per_seconds / limit`, so that no stretch of `per_seconds` holds more than `limit`.
A circuit opens after five failures in a row, or for as long as the server asks by Retry-After; then one delivery tries,
and each further failure doubles the pause, up to ten minutes. Never decide from what was read before: two workers read
the same.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

FAILURES_TO_OPEN: Final = 5
FIRST_PAUSE_SECONDS: Final = 10.0
LONGEST_PAUSE_SECONDS: Final = 600.0
PROBE_SECONDS: Final = 60.0
"""How long others wait for the delivery that tries; longer than one call can take."""

_SLOT: Final = text("""
    WITH given AS (
        UPDATE webhooks SET slot_at = greatest(
            slot_at + make_interval(secs => rate_per_seconds / rate_limit), clock_timestamp())
        WHERE id = :webhook_id AND rate_limit IS NOT NULL RETURNING slot_at)
    UPDATE webhook_deliveries d SET slot_at = given.slot_at FROM given WHERE d.id = :id
    RETURNING extract(epoch FROM d.slot_at - clock_timestamp())::float8
""")

_PROBE: Final = text("""
    UPDATE webhooks SET probing_until = clock_timestamp() + make_interval(secs => :seconds)
    WHERE id = :webhook_id AND circuit_until <= clock_timestamp()
      AND (probing_until IS NULL OR probing_until <= clock_timestamp())
    RETURNING id
""")

_WAKER: Final = text("""
    UPDATE webhooks SET waker_until = greatest(circuit_until, clock_timestamp()) + make_interval(secs => :seconds)
    WHERE id = :webhook_id AND (waker_until IS NULL OR waker_until <= clock_timestamp())
    RETURNING greatest(extract(epoch FROM circuit_until - clock_timestamp())::float8, 0)
""")

_SUCCEEDED: Final = text("""
    UPDATE webhooks SET failures = 0, failing_since = NULL, circuit_until = NULL, circuit_seconds = 0,
                        probing_until = NULL, waker_until = NULL
    WHERE id = :webhook_id
""")

# Only who finds the circuit closed, or was let try, moves it: what was under way when it opened says nothing new.
_FAILED: Final = text("""
    UPDATE webhooks w SET
        failures = w.failures + 1,
        failing_since = coalesce(w.failing_since, clock_timestamp()),
        circuit_until = CASE WHEN opens.now THEN clock_timestamp() + make_interval(secs => opens.seconds)
                             ELSE w.circuit_until END,
        circuit_seconds = CASE WHEN opens.now AND CAST(:asked AS float8) IS NULL THEN opens.seconds
                               ELSE w.circuit_seconds END,
        probing_until = CASE WHEN opens.now THEN NULL ELSE w.probing_until END,
        waker_until = CASE WHEN opens.now THEN NULL ELSE w.waker_until END
    FROM webhooks was
    CROSS JOIN LATERAL (
        SELECT (was.circuit_until IS NULL OR was.circuit_until <= clock_timestamp())
                   AND (CAST(:asked AS float8) IS NOT NULL OR was.failures + 1 >= :most) AS now,
               coalesce(CAST(:asked AS float8),
                        least(greatest(was.circuit_seconds * 2, :first), :longest)) AS seconds) AS opens
    WHERE w.id = :webhook_id AND was.id = w.id
    RETURNING w.failing_since <= clock_timestamp() - make_interval(days => :days) AS for_days, w.failing_since,
              opens.now AS opened, w.circuit_until
""")

# Somebody must come and try when the pause is over: of those that wait, the oldest.
_WAKE_ONE: Final = text("""
    WITH woken AS (
        UPDATE jobs SET run_at = :at
        WHERE id = (SELECT d.id FROM webhook_deliveries d JOIN jobs j ON j.id = d.id AND j.state = 'scheduled'
                    WHERE d.webhook_id = :webhook_id AND d.held = 'circuit' ORDER BY d.id LIMIT 1)
          AND state = 'scheduled'
        RETURNING id)
    UPDATE webhooks SET waker_until = CAST(:at AS timestamptz) + make_interval(secs => :seconds) FROM woken
    WHERE webhooks.id = :webhook_id
""")


class Failed(msgspec.Struct, frozen=True):
    """Where a webhook stands after a failure."""

    for_days: bool
    """Whether it has failed for as long as it may."""
    failing_since: datetime
    opened: bool
    """Whether this failure has opened the circuit."""


async def take_slot(connection: AsyncConnection, delivery_id: UUID, webhook_id: UUID) -> float:
    """Reserve the next free start for a delivery; return the seconds until it."""
    row = {"id": delivery_id, "webhook_id": webhook_id}
    seconds: float | None = (await connection.execute(_SLOT, row)).scalar_one_or_none()
    return max(seconds or 0.0, 0.0)


async def may_probe(connection: AsyncConnection, webhook_id: UUID) -> bool:
    """Tell whether this delivery is the one that tries; no other is told so before it has ended, or its time is up."""
    row = {"webhook_id": webhook_id, "seconds": PROBE_SECONDS}
    return (await connection.execute(_PROBE, row)).one_or_none() is not None


async def become_waker(connection: AsyncConnection, webhook_id: UUID) -> float | None:
    """Return in how many seconds this delivery has to come and look; None where another one does."""
    row = {"webhook_id": webhook_id, "seconds": PROBE_SECONDS}
    found: float | None = (await connection.execute(_WAKER, row)).scalar_one_or_none()
    return found


async def note_success(connection: AsyncConnection, webhook_id: UUID) -> None:
    """Close the circuit and forget the failures."""
    await connection.execute(_SUCCEEDED, {"webhook_id": webhook_id})


async def note_failure(
    connection: AsyncConnection, webhook_id: UUID, *, asked_seconds: float | None, disable_days: int
) -> Failed | None:
    """Count a failure, open the circuit where it is time, or for `asked_seconds`; None where the webhook is gone."""
    row: dict[str, Any] = {
        "webhook_id": webhook_id,
        "asked": asked_seconds,
        "most": FAILURES_TO_OPEN,
        "first": FIRST_PAUSE_SECONDS,
        "longest": LONGEST_PAUSE_SECONDS,
        "days": disable_days,
    }
    found = (await connection.execute(_FAILED, row)).one_or_none()
    if found is None:
        return None
    if found.opened:
        woken = {"webhook_id": webhook_id, "at": found.circuit_until, "seconds": PROBE_SECONDS}
        await connection.execute(_WAKE_ONE, woken)
    return Failed(found.for_days, found.failing_since, found.opened)
