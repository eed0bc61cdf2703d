"""Does the schema of the database fit this code? Every process's first question.

Owns the comparison of the revisions that the code brings, read from the heads of their files, with those that the
database says it has. Alembic itself is loaded only by `headrace migrate`: it takes ten megabytes, and no other process
changes a table. Never run on a schema that does not fit: the first statement would fail, or worse, succeed.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from headrace.errors import ConfigurationError, SchemaMismatchError

PACKAGE = "headrace.database.migrations"
_HEADER = frozenset({"revision", "down_revision", "depends_on"})
_HAS_TABLE = text("SELECT to_regclass('alembic_version') IS NOT NULL")
_VERSIONS = text("SELECT version_num FROM alembic_version")


class Revision(msgspec.Struct, frozen=True):
    """One migration, and those that come before it."""

    name: str
    before: tuple[str, ...]


def versions_of(package: str) -> Path:
    """Return the directory of a package's migrations.

    Raises:
        ConfigurationError: the package has no directory.

    """
    location = importlib.import_module(package).__file__
    if location is None:
        message = f"the migrations package {package} has no directory: give it an __init__.py"
        raise ConfigurationError(message)
    return Path(location).parent / "versions"


async def check_schema(engine: AsyncEngine, packages: Sequence[str] = ()) -> None:
    """Refuse a database whose schema is not that of this code.

    Raises:
        SchemaMismatchError: migrations are missing, or the database is ahead of this code.

    """
    known = {one.name: one for package in (PACKAGE, *packages) for one in revisions_in(versions_of(package))}
    heads = known.keys() - {name for one in known.values() for name in one.before}
    async with engine.connect() as connection:
        found = await _found(connection)
    if missing := heads - _applied(known, found):
        message = f"the database lacks the migrations {', '.join(sorted(missing))}: run `headrace migrate`"
        raise SchemaMismatchError(message)
    if unknown := found - known.keys():
        message = (
            f"the database has migrations that this code does not know ({', '.join(sorted(unknown))}): "
            "install the newer Headrace, or name the application that owns them in HEADRACE_APPLICATIONS"
        )
        raise SchemaMismatchError(message)


def revisions_in(directory: Path) -> list[Revision]:
    """Read the revisions of a directory from the constants at the top of its files, without importing them."""
    found = (_header_of(path) for path in sorted(directory.glob("*.py")))
    return [
        Revision(str(header["revision"]), (*_names(header.get("down_revision")), *_names(header.get("depends_on"))))
        for header in found
        if "revision" in header
    ]


def _header_of(path: Path) -> dict[str, object]:
    assignments = [node for node in ast.parse(path.read_bytes()).body if isinstance(node, ast.Assign)]
    return {
        target.id: ast.literal_eval(node.value)
        for node in assignments
        for target in node.targets
        if isinstance(target, ast.Name) and target.id in _HEADER
    }


def _names(value: object) -> tuple[str, ...]:
    """Return one or several revisions as Alembic allows them to be written."""
    if isinstance(value, (list, tuple)):
        return tuple(map(str, value))
    return () if value is None else (str(value),)


async def _found(connection: AsyncConnection) -> set[str]:
    if not (await connection.execute(_HAS_TABLE)).scalar_one():
        return set()
    return set((await connection.execute(_VERSIONS)).scalars())


def _applied(known: Mapping[str, Revision], heads: Collection[str]) -> set[str]:
    """Return the revisions that a database at these heads has: Alembic stores no head that another one depends on."""
    applied: set[str] = set()
    waiting = [known[head] for head in heads if head in known]
    while waiting:
        revision = waiting.pop()
        applied.add(revision.name)
        waiting += [known[name] for name in revision.before if name in known]
    return applied
