"""A process says that it is alive, from a thread of its own.

Owns the row of this process in `processes` and its lease. The thread has its own event loop and connection: a task that
blocks the process's loop keeps the lease, while a process that is dead or stopped (SIGSTOP) loses it. When a lease was
lost and is won back, `on_lost` is called: whatever the process owned may belong to others by now.
Never renew from the loop that does the work.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

import asyncpg
import structlog

from headrace.clock import new_id

logger = structlog.get_logger(__name__)

Role = Literal["api", "relay", "worker", "consume", "cron"]

_RENEW = """
    WITH before AS (SELECT expires_at FROM processes WHERE id = $1)
    INSERT INTO processes (id, role, host, pid, queues, tasks, slots, expires_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, now() + make_interval(secs => $8))
    ON CONFLICT (id) DO UPDATE SET seen_at = now(), expires_at = excluded.expires_at
    RETURNING (SELECT expires_at >= now() FROM before)
"""

_CANCELLED = """
    SELECT id FROM jobs WHERE worker_id = $1 AND state IN ('queued', 'running') AND cancel_requested_at IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a process is."""

    role: Role
    lease_seconds: float
    queues: Sequence[str] | None = None
    """The queues that a worker serves; None for all."""
    tasks: Sequence[str] = ()
    slots: int = 0
    """How many jobs a worker runs at once."""
    id: UUID = field(default_factory=new_id)


def _ignore() -> None:
    return


def _ignore_jobs(_jobs: list[UUID]) -> None:
    return


class Presence:
    """Keeps the lease of a process; `on_lost` and `on_cancelled` are called on the loop that started it."""

    def __init__(
        self,
        database_url: str,
        identity: Identity,
        *,
        on_lost: Callable[[], None] = _ignore,
        on_cancelled: Callable[[list[UUID]], None] = _ignore_jobs,
    ) -> None:
        self.identity = identity
        self._database_url = database_url
        self._on_lost = on_lost
        self._on_cancelled = on_cancelled
        self._ended = threading.Event()
        self._registered = threading.Event()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)
        self._home: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        """Start renewing; returns when the process is registered or its first try has failed."""
        self._home = asyncio.get_running_loop()
        self._thread.start()
        await asyncio.to_thread(self._registered.wait, self.identity.lease_seconds)

    async def stop(self) -> None:
        """Stop renewing and take the row away, so that others need not wait for the lease to run out."""
        self._ended.set()
        await asyncio.to_thread(self._thread.join, self.identity.lease_seconds)

    def _run(self) -> None:
        asyncio.run(self._renew_for_ever())

    async def _renew_for_ever(self) -> None:
        connection: asyncpg.Connection[asyncpg.Record] | None = None
        while not self._ended.is_set():
            try:
                connection = connection or await asyncpg.connect(self._database_url, timeout=self.identity.lease_seconds)
                await self._renew(connection)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                logger.warning("presence_not_renewed", error=repr(error))
                connection = _dropped(connection)
            self._registered.set()
            await asyncio.to_thread(self._ended.wait, self.identity.lease_seconds / 3)
        if connection is not None:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await connection.execute("DELETE FROM processes WHERE id = $1", self.identity.id)
                await connection.close()

    async def _renew(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        me = self.identity
        limit = me.lease_seconds
        kept = await connection.fetchval(
            _RENEW, me.id, me.role, socket.gethostname(), os.getpid(), me.queues, me.tasks, me.slots, limit, timeout=limit
        )
        if kept is not True and self._registered.is_set():
            logger.warning("lease_was_lost", process=str(me.id))
            self._tell(self._on_lost)
        if me.role == "worker":
            cancelled = [row["id"] for row in await connection.fetch(_CANCELLED, me.id, timeout=limit)]
            if cancelled:
                self._tell(lambda: self._on_cancelled(cancelled))

    def _tell(self, callback: Callable[[], None]) -> None:
        if self._home is not None and not self._home.is_closed():
            self._home.call_soon_threadsafe(callback)


def _dropped(connection: asyncpg.Connection[asyncpg.Record] | None) -> None:
    if connection is not None:
        connection.terminate()
