"""What an error of PostgreSQL means to a caller: is the store away, or was a text refused?

Owns the reading of SQLSTATE codes and of the errors that asyncpg and SQLAlchemy raise around them. Away is whatever may
be over at the next try: refused or lost connections, a server that starts or stops, no connection left, a deadlock.
Never count a wrong statement as away: that is a fault of ours.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from headrace.errors import UnavailableError

DRIVER_ERRORS: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What asyncpg's own connection raises; the last one where PostgreSQL closes it at the moment of a statement."""

# Classes and codes of https://www.postgresql.org/docs/current/errcodes-appendix.html
_AWAY: Final = ("08", "53", "57P", "58", "40001", "40P01", "25006", "28", "3D000")
_UNDONE: Final = frozenset({"40001", "40P01"})
_OF_THE_RECORD: Final = (
    DBAPIError,
    PoolTimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
_AWAY_ERRORS: Final = (ConnectionError, TimeoutError, socket.gaierror, PoolTimeoutError, asyncpg.InterfaceError)
_REFUSED_TEXT: Final = frozenset({"22021", "22P05"})


@contextmanager
def reaching() -> Iterator[None]:
    """Turn a connection that cannot be had into `UnavailableError`: a bare OSError could be anybody's.

    Raises:
        UnavailableError: PostgreSQL cannot be reached.

    """
    try:
        yield
    except OSError as error:
        message = "PostgreSQL cannot be reached"
        raise UnavailableError(message) from error


def is_away(error: BaseException) -> bool:
    """Tell whether the same request may succeed soon."""
    if isinstance(error, _AWAY_ERRORS):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    if isinstance(_driver_error(error), asyncpg.InternalClientError):
        return True  # so asyncpg says that it met a connection which PostgreSQL was closing
    return _sqlstate(error).startswith(_AWAY)


def is_undone(error: BaseException) -> bool:
    """Tell whether PostgreSQL has certainly rolled the transaction back, because another one was in its way."""
    return _sqlstate(error) in _UNDONE


def is_record_away(error: BaseException) -> bool:
    """Tell whether it was the record that went away under some work, and not somebody else whom the work had called."""
    return isinstance(error, UnavailableError) or (isinstance(error, _OF_THE_RECORD) and is_away(error))


def refused_text(error: BaseException) -> bool:
    """Tell whether PostgreSQL refused a text that it cannot store."""
    return _sqlstate(error) in _REFUSED_TEXT


def _driver_error(error: BaseException) -> BaseException | None:
    """Return what asyncpg raised, below what SQLAlchemy made of it."""
    return error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig is not None else error


def _sqlstate(error: BaseException) -> str:
    origin = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(origin, "sqlstate", None) or "")
