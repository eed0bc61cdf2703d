"""A process says that it is alive, from a thread of its own.

Owns the row of this process in `processes` and its lease. The thread has its own event loop and connection: a task
that blocks the process's loop keeps the lease, while a process that is dead or stopped (SIGSTOP) loses it. A lease that
was lost is taken again at the next chance; what the process owned may belong to others by then, and the process finds
that out from the record. Never renew from the loop that does the work.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

import asyncpg
import structlog

from headrace.clock import new_id
from headrace.database.away import DRIVER_ERRORS

logger = structlog.get_logger(__name__)

Role = Literal["api", "relay", "worker", "consume", "cron"]

_RENEW = """
    WITH before AS (SELECT expires_at FROM processes WHERE id = $1)
    INSERT INTO processes (id, role, host, pid, queues, tasks, slots, expires_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, now() + make_interval(secs => $8))
    ON CONFLICT (id) DO UPDATE SET seen_at = now(), expires_at = excluded.expires_at, slots = excluded.slots
    RETURNING (SELECT expires_at >= now() FROM before)
"""
_LEAVE = "DELETE FROM processes WHERE id = $1"


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


class Presence:
    """Keeps the lease of a process from `start` to `stop`."""

    def __init__(self, database_url: str, identity: Identity) -> None:
        self.identity = identity
        self._database_url = database_url
        self._ended = threading.Event()
        self._tried = threading.Event()
        self._held = False
        self._slots = identity.slots
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    async def start(self) -> None:
        """Start renewing; returns when the process is registered or its first try has failed."""
        self._thread.start()
        await asyncio.to_thread(self._tried.wait, self.identity.lease_seconds)

    def retire(self) -> None:
        """Say with the next renewal that this process takes nothing more."""
        self._slots = 0

    async def stop(self) -> None:
        """Stop renewing and take the row away, so that others need not wait for the lease to run out."""
        self._ended.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, self.identity.lease_seconds)

    def _run(self) -> None:
        asyncio.run(self._renew_for_ever())

    async def _renew_for_ever(self) -> None:
        connection: asyncpg.Connection[asyncpg.Record] | None = None
        while not self._ended.is_set():
            try:
                connection = connection or await asyncpg.connect(
                    self._database_url, timeout=self.identity.lease_seconds
                )
                await self._renew(connection)
            except Exception as error:  # noqa: BLE001 - failure table: PostgreSQL restarts, and the thread must outlive it
                logger.warning("presence_not_renewed", error=repr(error))
                if connection is not None:
                    connection.terminate()
                    connection = None
            self._tried.set()
            await asyncio.to_thread(self._ended.wait, self.identity.lease_seconds / 3)
        if connection is not None:
            with suppress(*DRIVER_ERRORS):
                await connection.execute(_LEAVE, self.identity.id, timeout=self.identity.lease_seconds)
                await connection.close()

    async def _renew(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        me = self.identity
        limit = me.lease_seconds
        kept = await connection.fetchval(
            _RENEW,
            me.id,
            me.role,
            socket.gethostname(),
            os.getpid(),
            me.queues,
            me.tasks,
            self._slots,
            limit,
            timeout=limit,
        )
        if self._held and not kept:
            logger.warning("lease_was_lost", process=str(me.id))
        self._held = True
