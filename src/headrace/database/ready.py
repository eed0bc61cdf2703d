"""Wait for the record at the start of a process.

Owns the patience of a process whose PostgreSQL is not there yet: it waits and goes on, as it does later when PostgreSQL
restarts. A schema that does not fit ends the process at once: waiting would not mend it. So does the wish to stop it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from headrace.database.away import DRIVER_ERRORS
from headrace.database.schema import check_schema
from headrace.loops import Stop

logger = structlog.get_logger(__name__)

_REST_SECONDS = 0.5


async def wait_until_ready(engine: AsyncEngine, packages: Sequence[str], stop: Stop | None = None) -> bool:
    """Return True when PostgreSQL answers and its schema fits this code, False when `stop` is set before.

    Raises:
        SchemaMismatchError: it answers, and its schema does not fit.

    """
    waiting = False
    while stop is None or not stop.is_set():
        try:
            await check_schema(engine, packages)
        except (*DRIVER_ERRORS, DBAPIError) as error:
            if not waiting:
                logger.warning("record_away", error=repr(error))
            waiting = True
            await (asyncio.sleep(_REST_SECONDS) if stop is None else stop.wait(_REST_SECONDS))
        else:
            return True
    return False
