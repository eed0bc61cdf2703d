"""Run several SQL statements in a migration.

The asyncpg dialect prepares what `op.execute` is given, and PostgreSQL prepares one statement at a time; this hands the
text to the driver as it is, inside the migration's transaction. Applications use it in migrations of their own.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import text


def run(statements: str) -> None:
    """Execute SQL statements that are separated by semicolons."""
    bind = op.get_bind()
    bind.execute(text("SELECT 1"))  # makes sure that the dialect has begun the transaction on this connection
    connection = bind.connection.dbapi_connection
    if connection is None:
        message = "the migration's connection is closed"
        raise RuntimeError(message)
    connection.run_async(lambda driver: driver.execute(statements))
