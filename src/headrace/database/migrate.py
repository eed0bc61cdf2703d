"""Bring the database to the schema of this code.

Owns the only path by which tables change: Alembic, one branch for Headrace and one for each application that has
tables. `upgrade` may be called by several processes at once: the first holds a lock, the others find nothing left to
do. Whether a schema fits is `headrace.database.schema`'s question. Never create or alter a table outside a migration.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from headrace.database.partitions import ensure_partitions
from headrace.database.record import sqlalchemy_url
from headrace.database.schema import PACKAGE, versions_of
from headrace.errors import ConfigurationError

_LOCK = 0x68656164  # "head": one migration at a time in a database


def _config(packages: Sequence[str]) -> Config:
    versions = [versions_of(package) for package in (PACKAGE, *packages)]
    config = Config()
    config.set_main_option("script_location", str(versions[0].parent))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(map(str, versions)))
    return config


def upgrade(database_url: str, packages: Sequence[str] = ()) -> None:
    """Run every missing migration of Headrace and of the applications' migration packages, then make partitions.

    Raises:
        ConfigurationError: PostgreSQL does not answer, an application's package has no migrations, or the database has
            migrations that this code does not know.

    """
    try:
        asyncio.run(_upgrade(database_url, packages))
    except OSError as error:
        message = f"PostgreSQL does not answer where HEADRACE_DATABASE_URL says: {error}"
        raise ConfigurationError(message) from error
    except CommandError as error:
        message = (
            f"the migrations of this code and of the database do not meet ({error}): install the newer Headrace, name "
            "the application that owns them in HEADRACE_APPLICATIONS, or use another database"
        )
        raise ConfigurationError(message) from error


async def _upgrade(database_url: str, packages: Sequence[str]) -> None:
    engine = create_async_engine(sqlalchemy_url(database_url))
    try:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _LOCK})
            await connection.commit()
            await connection.run_sync(_run_migrations, _config(packages))
            await connection.commit()
            await ensure_partitions(connection)
            await connection.commit()
    finally:
        await engine.dispose()


def _run_migrations(connection: Connection, config: Config) -> None:
    config.attributes["connection"] = connection
    command.upgrade(config, "heads")
