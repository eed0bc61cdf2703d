"""What a projection's table is made of, and why a table cannot be made anew.

Owns the questions to PostgreSQL's catalogue. A new generation takes the place of a table under its name, so whatever
hangs on the table itself and not on its name would stay behind: foreign keys of other tables, views, triggers, row
security, publications. Such tables are refused, with the reason, and never half replaced. Two tables with the same
definition are alike for every statement.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import msgspec

from headrace.errors import ConflictError

_RESOLVE: Final = """
    SELECT c.oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)
"""

_REFUSED: Final = """
    SELECT 'it is partitioned or inherits' FROM pg_inherits WHERE inhrelid = $1 OR inhparent = $1
    UNION ALL
    SELECT 'the foreign key ' || conname || ' of ' || conrelid::regclass || ' refers to it'
    FROM pg_constraint WHERE contype = 'f' AND confrelid = $1
    UNION ALL
    SELECT 'it has the trigger ' || tgname FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal
    UNION ALL
    SELECT 'it has row security' FROM pg_class WHERE oid = $1 AND relrowsecurity
    UNION ALL
    SELECT 'it is in the publication ' || p.pubname
    FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = $1
    UNION ALL
    SELECT 'the view or rule ' || w.ev_class::regclass || ' depends on it'
    FROM pg_depend d JOIN pg_rewrite w ON w.oid = d.objid
    WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1
    UNION ALL
    SELECT 'the function ' || d.objid::regprocedure || ' depends on it' FROM pg_depend d
    WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1
    UNION ALL
    SELECT 'it has privileges on the column ' || attname FROM pg_attribute
    WHERE attrelid = $1 AND attacl IS NOT NULL AND NOT attisdropped
    LIMIT 1
"""

# Each line is of one kind; the order of the columns counts, that of constraints and indexes does not.
_DEFINITION: Final = """
    SELECT format('column %s %s %s %s %s %s', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                  a.attidentity, a.attgenerated, pg_get_expr(d.adbin, d.adrelid)) AS line, a.attnum AS place
    FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT format('constraint %s %s', conname, pg_get_constraintdef(oid)), 10000
    FROM pg_constraint WHERE conrelid = $1 AND contype <> 'n'
    UNION ALL
    SELECT replace(pg_get_indexdef(i.indexrelid), ' ON ' || $1::oid::regclass || ' USING ', ' USING '), 20000
    FROM pg_index i WHERE i.indrelid = $1
    ORDER BY place, line
"""

_PLAIN: Final = "r"


class Table(msgspec.Struct, frozen=True):
    """A table of a projection, as it stands."""

    oid: int
    schema: str
    name: str


async def tables_named(connection: asyncpg.Connection[asyncpg.Record], names: Sequence[str]) -> list[Table]:
    """Return the tables of these names, all of which can be made anew.

    Raises:
        ConflictError: one is missing, or cannot; the message says why.

    """
    found = []
    for name in names:
        row = await connection.fetchrow(_RESOLVE, name)
        if row is None:
            message = f"there is no table {name}"
            raise ConflictError(message)
        if row["kind"] != _PLAIN:
            message = f"{name} cannot be made anew: it is no plain table"
            raise ConflictError(message)
        await require_nothing_hangs_on(connection, row["oid"], name)
        found.append(Table(row["oid"], row["schema"], row["name"]))
    if len({table.name for table in found}) < len(found):
        message = "two of its tables have the same name"
        raise ConflictError(message)
    return found


async def require_nothing_hangs_on(connection: asyncpg.Connection[asyncpg.Record], table: int, name: str) -> None:
    """Refuse a table on which something hangs that another one of its name would not have.

    Raises:
        ConflictError: saying what.

    """
    reason = await connection.fetchval(_REFUSED, table)
    if reason is not None:
        message = f"{name} cannot be made anew: {reason}"
        raise ConflictError(message)


@asynccontextmanager
async def names_in_full(connection: asyncpg.Connection[asyncpg.Record]) -> AsyncIterator[None]:
    """Let the catalogue tell every name with its schema, in the caller's transaction, for the block."""
    path = await connection.fetchval("SELECT current_setting('search_path')")
    await connection.execute("SELECT set_config('search_path', 'pg_catalog', true)")
    yield
    await connection.execute("SELECT set_config('search_path', $1, true)", path)


async def definition(connection: asyncpg.Connection[asyncpg.Record], table: int) -> list[str]:
    """Return what a table is made of; within `names_in_full`."""
    return [row["line"] for row in await connection.fetch(_DEFINITION, table)]
