"""The shadow of a projection's tables: the schema in which their next generation grows.

Owns that schema, from its making to the switch. The tables in it have the names, columns, constraints, indexes and
privileges of the present ones, so the projection's function, which names its tables without a schema, writes there when
the search path begins with the shadow, and sees nothing of it. Whatever else it writes is refused: it would happen a
second time. The switch is one transaction: whoever reads sees the old rows or the new ones. Never write to a table of
the present generation here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import asyncpg

from headrace.database.driver import borrowed
from headrace.database.record import Record
from headrace.jobs.retry import PermanentError
from headrace.subscribers.shadow_definition import Table, definition, names_in_full, require_nothing_hangs_on

PREFIX: Final = "headrace_shadow_"
_OWN: Final = ("replays", "replay_lanes")

_ENTER: Final = """
    SELECT set_config('search_path', $1 || ', ' || current_setting('search_path'), true)
    WHERE NOT starts_with(current_setting('search_path'), $1)
"""

_KEYS: Final = """
    SELECT format('ALTER TABLE %I.%I ADD CONSTRAINT %I %s', $2::text, $3::text, conname, pg_get_constraintdef(oid))
    FROM pg_constraint WHERE conrelid = $1 AND contype IN ('p', 'u', 'x', 'f') ORDER BY contype = 'f', oid
"""
_INDEXES: Final = """
    SELECT replace(pg_get_indexdef(i.indexrelid), ' ON ' || $1::oid::regclass || ' USING ',
                   format(' ON %I.%I USING ', $2::text, $3::text))
    FROM pg_index i
    WHERE i.indrelid = $1 AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid AND conrelid = $1)
"""
_OTHERS: Final = """
    SELECT format('ALTER TABLE %I.%I SET (%s)', $2::text, $3::text, array_to_string(c.reloptions, ', '))
    FROM pg_class c WHERE c.oid = $1 AND c.reloptions IS NOT NULL
    UNION ALL
    SELECT format('COMMENT ON TABLE %I.%I IS %L', $2::text, $3::text, obj_description($1, 'pg_class'))
    WHERE obj_description($1, 'pg_class') IS NOT NULL
    UNION ALL
    SELECT format('ALTER TABLE %I.%I OWNER TO %I', $2::text, $3::text, r.rolname)
    FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE c.oid = $1 AND r.rolname <> current_user
    UNION ALL
    SELECT format('GRANT %s ON %I.%I TO %s%s', g.privilege_type, $2::text, $3::text,
                  CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(g.grantee::regrole::text) END,
                  CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) AS g WHERE c.oid = $1 AND g.grantee <> c.relowner
"""

# A serial column draws from the same sequence in both generations; the sequence belongs to the table that stays.
_SEQUENCES: Final = """
    SELECT format('%I.%I', n.nspname, s.relname) AS sequence, quote_ident(a.attname) AS column
    FROM pg_depend d
    JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_namespace n ON n.oid = s.relnamespace
    JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1
      AND d.deptype = 'a'
"""

_LEFT: Final = f"""
    SELECT n.nspname FROM pg_namespace n
    WHERE n.nspname ~ '^{PREFIX}[0-9a-f]{{32}}$' AND NOT EXISTS (
        SELECT FROM replays r JOIN jobs j ON j.id = r.job_id
        WHERE r.shadow = n.nspname AND r.switched_at IS NULL AND j.finished_at IS NULL)
"""  # noqa: S608 - the prefix is ours

_WRITTEN: Final = """
    SELECT c.oid, n.nspname AS schema, c.relname AS name,
           pg_stat_get_xact_tuples_inserted(c.oid) + pg_stat_get_xact_tuples_updated(c.oid)
           + pg_stat_get_xact_tuples_deleted(c.oid) AS rows
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema', $1)
"""


class Shadow:
    """The shadow of some tables, for the rebuild by one job."""

    def __init__(self, job_id: UUID, tables: Sequence[Table]) -> None:
        self.schema = f"{PREFIX}{job_id.hex}"
        self._grave = f"{self.schema}_old"
        self._tables = tables

    def is_of(self, tables: Sequence[Table]) -> bool:
        """Tell whether it was made after these tables, and no others of their names."""
        return list(self._tables) == list(tables)

    async def fits(self, connection: asyncpg.Connection[asyncpg.Record]) -> bool:
        """Tell, in the caller's transaction, whether it is there with tables that are defined as the present ones."""
        async with names_in_full(connection):
            for table in self._tables:
                mine = await connection.fetchval("SELECT to_regclass($1)::oid", self._named(self.schema, table))
                if mine is None or await definition(connection, mine) != await definition(connection, table.oid):
                    return False
        return True

    async def make(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """Make it anew, empty, in the caller's transaction."""
        await self.drop(connection)
        await connection.execute(f'CREATE SCHEMA "{self.schema}"')
        async with names_in_full(connection):
            for table in self._tables:
                await self._make_table(connection, table)

    async def _make_table(self, connection: asyncpg.Connection[asyncpg.Record], table: Table) -> None:
        unlogged = await connection.fetchval("SELECT relpersistence = 'u' FROM pg_class WHERE oid = $1", table.oid)
        live, mine = self._named(table.schema, table), self._named(self.schema, table)
        kind = "UNLOGGED TABLE" if unlogged else "TABLE"
        await connection.execute(f"CREATE {kind} {mine} (LIKE {live} INCLUDING ALL EXCLUDING INDEXES)")
        for query in (_KEYS, _INDEXES, _OTHERS):
            for (statement,) in await connection.fetch(query, table.oid, self.schema, table.name):
                await connection.execute(statement)

    async def enter(self, connection: asyncpg.Connection[asyncpg.Record]) -> dict[int, int]:
        """Let the caller's transaction find the tables here; return what it has written elsewhere before."""
        await connection.execute(_ENTER, self.schema)
        return {row["oid"]: row["rows"] for row in await connection.fetch(_WRITTEN, self.schema)}

    async def require_nothing_else(
        self, connection: asyncpg.Connection[asyncpg.Record], before: dict[int, int]
    ) -> None:
        """Refuse what was written to other tables since `enter`.

        Raises:
            PermanentError: naming them.

        """
        written = [
            row["name"]
            for row in await connection.fetch(_WRITTEN, self.schema)
            if row["rows"] > before.get(row["oid"], 0) and row["name"] not in _OWN
        ]
        if written:
            message = (
                f"the projection also wrote to {', '.join(sorted(written))}: a rebuild would do that a second time. "
                "Name every table of its own in tables=, without a schema in its statements, and let a subscriber do "
                "the rest"
            )
            raise PermanentError(message)

    async def switch(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """Put its tables in the place of the present ones, which go, in the caller's transaction.

        Raises:
            ConflictError: something hangs on one of them by now.

        """
        names = ", ".join(self._named(table.schema, table) for table in self._tables)
        await connection.execute(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
        for table in self._tables:
            await require_nothing_hangs_on(connection, table.oid, table.name)
        await connection.execute(f'CREATE SCHEMA "{self._grave}"')
        for table in self._tables:
            live = self._named(table.schema, table)
            sequences = await connection.fetch(_SEQUENCES, table.oid)
            for sequence, _ in sequences:
                await connection.execute(f"ALTER SEQUENCE {sequence} OWNED BY NONE")
            await connection.execute(f'ALTER TABLE {live} SET SCHEMA "{self._grave}"')
            mine = self._named(self.schema, table)
            await connection.execute(f"ALTER TABLE {mine} SET SCHEMA {_quoted(table.schema)}")
            for sequence, column in sequences:
                await connection.execute(f"ALTER SEQUENCE {sequence} OWNED BY {live}.{column}")
        await self.drop(connection)

    async def drop(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """Take it away, with what is in it, if it is there."""
        await drop_shadow(connection, self.schema)

    @staticmethod
    def _named(schema: str, table: Table) -> str:
        return f"{_quoted(schema)}.{_quoted(table.name)}"


async def drop_shadow(connection: asyncpg.Connection[asyncpg.Record], schema: str) -> None:
    """Take a shadow away, with what is in it, if it is there."""
    await connection.execute(f'DROP SCHEMA IF EXISTS "{schema}", "{schema}_old" CASCADE')


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


async def sweep_shadows(record: Record) -> int:
    """Take away the shadows that no rebuild under way works on; return how many. What is in use is left for later."""
    swept = 0
    async with borrowed(record.engine) as connection:
        for (schema,) in await connection.fetch(_LEFT):
            try:
                async with connection.transaction():
                    await connection.execute("SET LOCAL lock_timeout = '500ms'")
                    await drop_shadow(connection, schema)
                swept += 1
            except asyncpg.LockNotAvailableError:
                continue
    return swept
