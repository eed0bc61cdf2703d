"""The virtual clock: the record tells the time that a test says it is.

Owns the schema `headrace_clock` of a test's database, in which functions named like PostgreSQL's (`now()`,
`clock_timestamp()` and so on) return one stored moment. They stand before PostgreSQL's own on the search path of every
connection to that database, so each statement, Headrace's and the application's, decides by the test's time, and
nothing becomes due because a test took long. Defaults of columns and views are pointed there too. Only the keyword
`CURRENT_TIMESTAMP` within a statement escapes: no search path reaches it. Never install this in a database that is not
a test's.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

_TOLD: Final = ("now", "clock_timestamp", "statement_timestamp", "transaction_timestamp")

_CLOCK: Final = """
    CREATE SCHEMA headrace_clock;
    CREATE TABLE headrace_clock.moment (at timestamptz NOT NULL);
    INSERT INTO headrace_clock.moment VALUES (pg_catalog.now());
"""
_FUNCTION: Final = """
    CREATE FUNCTION headrace_clock.{name}() RETURNS timestamptz LANGUAGE sql STABLE
        AS 'SELECT at FROM headrace_clock.moment';
"""

# What PostgreSQL resolved when the tables and views were made would go on to ask its own clock.
_POINT_THERE: Final = r"""
DO $$
DECLARE
    its_own constant text := '\m(now|clock_timestamp|statement_timestamp|transaction_timestamp)\(\)|CURRENT_TIMESTAMP';
    found record;
BEGIN
    FOR found IN
        SELECT d.adrelid::regclass AS relation, a.attname, pg_get_expr(d.adbin, d.adrelid) AS expression
        FROM pg_attrdef d
        JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum AND a.attgenerated = ''
        JOIN pg_class c ON c.oid = d.adrelid
        WHERE c.relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema')
          AND pg_get_expr(d.adbin, d.adrelid) ~ its_own
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT %s', found.relation, found.attname,
                       regexp_replace(found.expression, its_own, 'headrace_clock.now()', 'g'));
    END LOOP;
    FOR found IN
        SELECT format('%I.%I', schemaname, viewname) AS relation, definition FROM pg_views
        WHERE schemaname NOT IN ('pg_catalog', 'information_schema') AND definition ~ its_own
    LOOP
        EXECUTE format('CREATE OR REPLACE VIEW %s AS %s', found.relation,
                       regexp_replace(found.definition, its_own, 'headrace_clock.now()', 'g'));
    END LOOP;
END $$;
"""
_PATH: Final = """ALTER DATABASE "{database}" SET search_path = "$user", public, headrace_clock, pg_catalog"""

_SET: Final = text("UPDATE headrace_clock.moment SET at = :at")
_ASK: Final = text("SELECT at FROM headrace_clock.moment")


async def install(database_url: str) -> None:
    """Give a database the virtual clock; a connection tells its time where it has the `search_path`."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute(_CLOCK + "".join(_FUNCTION.format(name=name) for name in _TOLD))
            await connection.execute(_POINT_THERE)
    finally:
        await connection.close()


def search_path(database: str) -> str:
    """Return the statement after which every new connection to a database tells the virtual time."""
    return _PATH.format(database=database)


async def set_time(engine: AsyncEngine, moment: datetime) -> None:
    """Let it be another time."""
    async with engine.begin() as connection:
        await connection.execute(_SET, {"at": moment})


async def ask_time(engine: AsyncEngine) -> datetime:
    """Return what time it is."""
    async with engine.connect() as connection:
        told: datetime = (await connection.execute(_ASK)).scalar_one()
    return told
