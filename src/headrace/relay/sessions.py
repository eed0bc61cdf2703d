"""Ending the sessions of dead processes, by the leader.

Owns the pace: twice a second, so that who takes over from a process that was stopped waits for its locks no longer than
for its lease. Never end a session here for another reason.
"""

from __future__ import annotations

from headrace.database.sessions import end_sessions_of_the_dead
from headrace.loops import Pace, repeat
from headrace.relay.leader import Leadership

_PACE = Pace(0.5, first_backoff_seconds=0.1, last_backoff_seconds=1.0)


async def end_sessions(leadership: Leadership) -> None:
    """End sessions of dead processes until the leadership ends."""
    engine, lease_seconds = leadership.record.engine, leadership.settings.lease_seconds
    await repeat(
        "end_sessions", lambda: end_sessions_of_the_dead(engine, lease_seconds=lease_seconds), _PACE, leadership.stop
    )
