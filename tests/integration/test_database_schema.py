"""What the code says of the schema is what a migrated database has."""

from __future__ import annotations

import re

from headrace.database.states import TRANSITIONS, JobState
from headrace.database.tables import metadata
from tests.road import Road

_COLUMNS = """
    SELECT column_name, is_nullable = 'YES' AS nullable FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name = $1
"""


async def test_tables_of_the_code_are_those_of_the_migrations(road: Road) -> None:
    """Each table has the same columns, and the same ones may be null."""
    for table in metadata.sorted_tables:
        found = {row["column_name"]: row["nullable"] for row in await road.driver.fetch(_COLUMNS, table.name)}

        assert found == {column.name: column.nullable for column in table.columns}, table.name


async def test_database_allows_the_transitions_of_the_code(road: Road) -> None:
    """The trigger's table of moves is the one of the code, state by state."""
    source = await road.driver.fetchval("SELECT prosrc FROM pg_proc WHERE proname = 'job_moved'")

    allowed = {
        JobState(state): frozenset(map(JobState, filter(None, after.split(","))))
        for state, after in re.findall(r"WHEN '(\w+)' THEN '\{([\w,]*)\}'::job_state\[\]", source)
    }

    assert allowed == TRANSITIONS
