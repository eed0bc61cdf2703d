"""The process `headrace relay`: stands by or leads until it is told to stop.

Owns what the process is made of: its presence, its lease, and the parts that its leader runs. Any number of these
processes may run; one leads. Never decide here what a part does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from headrace.database.ready import wait_until_ready
from headrace.database.record import open_record
from headrace.leases import Leases
from headrace.loops import Stop
from headrace.presence import Identity, Presence
from headrace.relay.abandoned import remove_abandoned
from headrace.relay.following import following
from headrace.relay.leader import Ground, Leader, Part
from headrace.relay.moving import move_events
from headrace.relay.releasing import keep_jobs, mend_belt, release_jobs
from headrace.relay.sessions import end_sessions
from headrace.settings import Settings
from headrace.streams.connection import open_commands
from headrace.tasks.contract import Task
from headrace.telemetry.logs import configure_logging
from headrace.telemetry.setup import configure

_PARTS: Final[Sequence[Part]] = (move_events, release_jobs, keep_jobs, mend_belt, end_sessions, remove_abandoned)


def parts_of(tasks: Mapping[str, Task[Any, Any]]) -> Sequence[Part]:
    """Return all that a leader does; `tasks` are those that may be told of a job's death."""
    return (*_PARTS, following(tasks))


async def run_relay(settings: Settings, stop: Stop, *, parts: Sequence[Part], migrations: Sequence[str] = ()) -> None:
    """Be the process: logs and traces are those of a relay; else as `stand_by`."""
    configure_logging(settings, "relay")
    telemetry = configure("relay")
    try:
        await stand_by(settings, stop, migrations=migrations, parts=parts)
    finally:
        telemetry.shutdown()


async def stand_by(settings: Settings, stop: Stop, *, parts: Sequence[Part], migrations: Sequence[str] = ()) -> None:
    """Stand by or lead until `stop` is set.

    Args:
        settings: of this process.
        stop: ends it; what a part has begun is finished, and the lease given back.
        parts: what the leader does; `parts_of` names everything.
        migrations: the applications' migration packages, whose schema must be there.

    """
    identity = Identity("relay", settings.lease_seconds)
    async with AsyncExitStack() as stack:
        record = await stack.enter_async_context(open_record(settings))
        if not await wait_until_ready(record.engine, migrations, stop):
            return
        redis = open_commands(settings.redis_url)
        stack.push_async_callback(redis.aclose)
        presence = Presence(settings.database_url, identity)
        await presence.start()
        stack.push_async_callback(presence.stop)
        leases = Leases(record.engine, identity.id, seconds=settings.lease_seconds)
        await Leader(Ground(record, redis, settings), leases, parts).run(stop)
