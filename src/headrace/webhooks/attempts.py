"""The delivery log: each call of a webhook, and what was answered.

Owns the rows of `webhook_attempts`. A call is written down once, by the attempt that made it. Never keep more of a
stranger's answer than `Called` does.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.tasks.facts import RunFacts
from headrace.telemetry.propagation import trace_id_now, trace_id_of
from headrace.webhooks.calling import Called

_WRITE: Final = text("""
    INSERT INTO webhook_attempts (delivery_id, fence, attempt, status, error, response, seconds, trace_id)
    VALUES (:delivery_id, :fence, :attempt, :status, :error, :response, :seconds, :trace_id)
    ON CONFLICT DO NOTHING
""")


async def write_down(connection: AsyncConnection, run: RunFacts, called: Called) -> None:
    """Write a call down."""
    row = {
        "delivery_id": run.job_id,
        "fence": run.fence,
        "attempt": run.attempt,
        "status": called.status,
        "error": called.error,
        "response": called.response,
        "seconds": called.seconds,
        "trace_id": trace_id_now() or trace_id_of(run.traceparent),
    }
    await connection.execute(_WRITE, row)
