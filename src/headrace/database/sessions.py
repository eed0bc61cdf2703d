"""Sessions of the dead: a process that lost its lease keeps no locks.

Owns the name by which PostgreSQL knows whose a session is, and the ending of those whose process is dead by the
record's clock. A process that is killed leaves no session; one that is stopped, or on a host that is cut off, leaves
its transactions open, and with them the locks that its successor needs: an inbox row, a job, an application's own rows.
What it wrote is rolled back, as it would have been refused anyway. After a restart of PostgreSQL every lease looks old:
for one lease time nothing is ended. Never end a session whose process was never seen alive.
"""

from __future__ import annotations

from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

logger = structlog.get_logger(__name__)

_PREFIX = "headrace process "

_END = text("""
    SELECT p.role, p.host, p.pid, count(pg_terminate_backend(s.pid)) AS sessions
    FROM pg_stat_activity AS s JOIN processes AS p ON s.application_name = :prefix || p.id::text
    WHERE s.datname = current_database() AND p.expires_at < now()
      AND pg_postmaster_start_time() < now() - make_interval(secs => :lease_seconds)
    GROUP BY p.id
""")


def session_name(process_id: UUID) -> str:
    """Return the `application_name` of a process's sessions."""
    return f"{_PREFIX}{process_id}"


async def end_sessions_of_the_dead(engine: AsyncEngine, *, lease_seconds: float) -> int:
    """End the sessions of processes whose lease has run out; return how many."""
    async with engine.begin() as connection:
        rows = (await connection.execute(_END, {"prefix": _PREFIX, "lease_seconds": lease_seconds})).all()
    for row in rows:
        logger.warning("sessions_ended", process_role=row.role, host=row.host, pid=row.pid, sessions=row.sessions)
    return sum(row.sessions for row in rows)
