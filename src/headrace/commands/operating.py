"""How a command looks at, and changes, what is on record.

Owns the way of an operator's command to PostgreSQL: `HEADRACE_DATABASE_URL`, or, where that is not set, the stack that
`headrace up` runs on `.headrace` in the current directory. What is wrong there (PostgreSQL is away, its schema is
another one) is one line on standard error and exit code 1 or 2, never a traceback. Never log from here to standard
output: it belongs to the answer.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

import msgspec
from sqlalchemy.exc import DBAPIError

from headrace.commands.running import read_settings, run
from headrace.database.away import DRIVER_ERRORS, is_away
from headrace.database.record import Record, open_record
from headrace.errors import SchemaMismatchError, UnavailableError
from headrace.settings import PREFIX, Settings
from headrace.stack import stackfile
from headrace.telemetry.logs import OPERATOR, configure_logging

T = TypeVar("T")

STACK_DIRECTORY: Final = Path(".headrace")
"""Where `headrace up` keeps everything unless it is told otherwise."""

_CONNECTIONS: Final = 4
_BELL_SECONDS: Final = 1.0
_MISSING: Final = frozenset({"42P01", "42703"})
"""undefined_table and undefined_column, https://www.postgresql.org/docs/current/errcodes-appendix.html"""


def operator_settings() -> Settings:
    """Return the settings of this process; where they name no record, that of the stack here, and its secret keys."""
    settings = read_settings()
    if os.environ.get(f"{PREFIX}DATABASE_URL"):
        return settings
    stack = stackfile.read(STACK_DIRECTORY)
    if stack is None:
        return settings
    keys = STACK_DIRECTORY / stackfile.SECRET_KEYS
    secret_keys = settings.secret_keys or (keys.read_text() if keys.is_file() else None)
    return msgspec.structs.replace(settings, database_url=stack.postgres_url, secret_keys=secret_keys)


def operator_name() -> str:
    """Return who runs this command, for the record."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as containers have
        return "the command line"


def operate(work: Callable[[Record], Awaitable[T]]) -> T:
    """Do work on the record and return what it returns.

    Raises:
        UnavailableError: PostgreSQL does not answer.
        SchemaMismatchError: its schema is not that of this code.

    """
    settings = operator_settings()
    configure_logging(msgspec.structs.replace(settings, log_level="error"), OPERATOR)
    return run(_operated(settings, work))


@contextmanager
def explained(settings: Settings) -> Iterator[None]:
    """Say in one line what is wrong with the record, should it be that.

    Raises:
        UnavailableError: PostgreSQL does not answer.
        SchemaMismatchError: its schema is not that of this code.

    """
    try:
        yield
    except (*DRIVER_ERRORS, DBAPIError) as error:
        if is_away(error) or isinstance(error, OSError):
            where = urlsplit(settings.database_url)
            message = (
                f"PostgreSQL does not answer at {where.hostname}:{where.port or 5432}: is HEADRACE_DATABASE_URL right?"
            )
            raise UnavailableError(message) from error
        if getattr(getattr(error, "orig", error), "sqlstate", None) in _MISSING:
            message = "the schema of the database is not that of this code: run `headrace migrate`"
            raise SchemaMismatchError(message) from error
        raise


async def _operated(settings: Settings, work: Callable[[Record], Awaitable[T]]) -> T:
    with explained(settings):
        async with open_record(settings, pool_size=_CONNECTIONS, session_name="headrace operator") as record:
            done = await work(record)
            await record.wakeup.carried(_BELL_SECONDS)
            return done
