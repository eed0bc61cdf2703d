"""The record: the way to PostgreSQL, and the bell that is rung after a commit.

Owns the engine of a process and its `Wakeup`. A commit rings the bell, and the relay, which listens, works at once
instead of at its next poll. The bell may fail at any time and nothing is lost: polling is the truth. Never NOTIFY
inside a business transaction: it takes a lock that is one per database until the commit is done.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import structlog
from sqlalchemy import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from headrace.database.away import DRIVER_ERRORS
from headrace.errors import ConfigurationError
from headrace.release import release_of
from headrace.settings import Settings

logger = structlog.get_logger(__name__)

_CONNECT_SECONDS = 3.0
_QUIET_SECONDS = 0.01
_REST_SECONDS = 1.0


class Bell(StrEnum):
    """What there is to do after a commit; the values are PostgreSQL's channels."""

    JOBS = "headrace_jobs"
    EVENTS = "headrace_events"
    CANCELS = "headrace_cancels"
    """A running job is to be cancelled: its worker looks."""
    ENDINGS = "headrace_endings"
    """A job has ended that others wait for."""


class Wakeup:
    """Rings bells over a connection of its own, each at once, then every 10 ms at most, after the caller's commit."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._rung: set[Bell] = set()
        self._wanted = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()

    def ring(self, bell: Bell) -> None:
        """Say that there is work; returns at once and never fails."""
        self._rung.add(bell)
        self._quiet.clear()
        self._wanted.set()

    async def carried(self, patience_seconds: float) -> None:
        """Return when what was rung has reached PostgreSQL, or the time is up: for a process that is about to end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_seconds):
                await self._quiet.wait()

    async def run(self) -> None:
        """Carry the rings to PostgreSQL until cancelled; a lost connection is made anew."""
        while True:
            try:
                connection = await asyncpg.connect(self._database_url, timeout=5)
                try:
                    await self._carry(connection)
                finally:
                    connection.terminate()
            except DRIVER_ERRORS as error:
                logger.debug("wakeup_lost", error=repr(error))
                await asyncio.sleep(_REST_SECONDS)

    async def _carry(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            bells, self._rung = self._rung, set()
            for bell in bells:
                await connection.execute(f"NOTIFY {bell.value}")
            if not self._rung:
                self._quiet.set()
            await asyncio.sleep(_QUIET_SECONDS)


@dataclass(frozen=True, slots=True)
class Record:
    """PostgreSQL, as one process reaches it."""

    engine: AsyncEngine
    wakeup: Wakeup
    database_url: str
    """For the connections that a part keeps to itself, as asyncpg takes it."""
    release: str = ""
    """The version of the code that writes here, for what fails."""


class _Impatient(asyncpg.Connection):  # type: ignore[misc]  # asyncpg tells mypy nothing of its types
    """A connection that is broken off as soon as one of its statements has taken too long.

    asyncpg would ask PostgreSQL to cancel the statement and wait for its answer, which a frozen one never gives.
    """

    def _cancel_current_command(
        self, waiter: asyncio.Future[None], cancel_waiter: asyncio.Future[None] | None = None
    ) -> None:
        del waiter, cancel_waiter
        asyncio.get_running_loop().call_soon(self.terminate)  # asyncpg first finishes what it is at


def sqlalchemy_url(database_url: str) -> URL:
    """Turn `postgresql://…` into the URL of SQLAlchemy's asyncpg dialect.

    Raises:
        ConfigurationError: it is not a PostgreSQL URL.

    """
    scheme = urlsplit(database_url).scheme
    if scheme not in {"postgresql", "postgres"}:
        message = f"HEADRACE_DATABASE_URL must begin with postgresql:// (it begins with {scheme}://)"
        raise ConfigurationError(message)
    query = {key: values[-1] for key, values in parse_qs(urlsplit(database_url).query).items()}
    return make_url(database_url).set(drivername="postgresql+asyncpg", query=query)


def _connect_args(session_name: str, statement_seconds: float | None) -> dict[str, Any]:
    named = {"server_settings": {"application_name": session_name}}
    if statement_seconds is None:
        return named
    return named | {"command_timeout": statement_seconds, "timeout": _CONNECT_SECONDS, "connection_class": _Impatient}


@asynccontextmanager
async def open_record(
    settings: Settings,
    *,
    pool_size: int | None = None,
    encode_json: Callable[[object], str] | None = None,
    session_name: str = "headrace",
    statement_seconds: float | None = None,
) -> AsyncIterator[Record]:
    """Open the record for this process and keep its bell ready; connections are made when first needed.

    Args:
        settings: where PostgreSQL is.
        pool_size: how many connections at most; as the settings say by default.
        encode_json: how SQLAlchemy writes JSON; by the standard library by default.
        session_name: the `application_name` by which PostgreSQL knows this process's sessions.
        statement_seconds: how long one statement may take before TimeoutError, for who answers requests; by default
            statements are waited for, also those of a PostgreSQL that is frozen.

    """
    engine = create_async_engine(
        sqlalchemy_url(settings.database_url),
        pool_size=pool_size or settings.database_pool_size,
        max_overflow=0,
        pool_timeout=5,
        pool_recycle=1800,
        json_serializer=encode_json,
        connect_args=_connect_args(session_name, statement_seconds),
    )
    wakeup = Wakeup(settings.database_url)
    ringing = asyncio.create_task(wakeup.run())
    try:
        yield Record(engine=engine, wakeup=wakeup, database_url=settings.database_url, release=release_of(settings))
    finally:
        ringing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ringing
        await engine.dispose()
