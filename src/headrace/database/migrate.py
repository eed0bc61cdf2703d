"""Bring the database to the schema of this code, and refuse to run on another one.

Owns the only path by which tables change: Alembic, one branch for Headrace and one for each application that has
tables. `upgrade` may be called by several processes at once: the first holds a lock, the others find nothing left to
do. `check_schema` is every process's first act. Never create or alter a table outside a migration.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from alembic.util import to_tuple
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from headrace.database.partitions import ensure_partitions
from headrace.database.record import sqlalchemy_url
from headrace.errors import ConfigurationError, SchemaMismatchError

_PACKAGE = "headrace.database.migrations"
_LOCK = 0x68656164  # "head": one migration at a time in a database


def _versions_of(package: str) -> Path:
    location = importlib.import_module(package).__file__
    if location is None:
        message = f"the migrations package {package} has no directory: give it an __init__.py"
        raise ConfigurationError(message)
    return Path(location).parent / "versions"


def _config(packages: Sequence[str]) -> Config:
    versions = [_versions_of(package) for package in (_PACKAGE, *packages)]
    config = Config()
    config.set_main_option("script_location", str(versions[0].parent))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(map(str, versions)))
    return config


def upgrade(database_url: str, packages: Sequence[str] = ()) -> None:
    """Run every missing migration of Headrace and of the applications' migration packages, then make partitions.

    Raises:
        ConfigurationError: PostgreSQL does not answer, or an application's package has no migrations.

    """
    try:
        asyncio.run(_upgrade(database_url, packages))
    except OSError as error:
        message = f"PostgreSQL does not answer where HEADRACE_DATABASE_URL says: {error}"
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


async def check_schema(engine: AsyncEngine, packages: Sequence[str] = ()) -> None:
    """Refuse a database whose schema is not that of this code.

    Raises:
        SchemaMismatchError: migrations are missing, or the database is ahead of this code.

    """
    scripts = ScriptDirectory.from_config(_config(packages))
    async with engine.connect() as connection:
        found = set(await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_heads()))
    known = {script.revision: script for script in scripts.walk_revisions()}
    if missing := set(scripts.get_heads()) - _applied(known, found):
        message = f"the database lacks the migrations {', '.join(sorted(missing))}: run `headrace migrate`"
        raise SchemaMismatchError(message)
    if unknown := found - known.keys():
        message = (
            f"the database has migrations that this code does not know ({', '.join(sorted(unknown))}): "
            "install the newer Headrace, or name the application that owns them in HEADRACE_APPLICATIONS"
        )
        raise SchemaMismatchError(message)


def _applied(known: Mapping[str, Script], heads: Collection[str]) -> set[str]:
    """Return the revisions that a database at these heads has: Alembic stores no head that another one depends on."""
    applied: set[str] = set()
    waiting = [known[head] for head in heads if head in known]
    while waiting:
        script = waiting.pop()
        applied.add(script.revision)
        before = (*to_tuple(script.down_revision, default=()), *to_tuple(script.dependencies, default=()))
        waiting += [known[name] for name in before if name in known]
    return applied
