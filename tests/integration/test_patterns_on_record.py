"""`type_matches` in PostgreSQL and `matches` in Python say the same of every pattern."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from headrace.database.record import Record
from headrace.events.patterns import matches

_PATTERNS = ["orders.*", "*.completed", "project.*.updated", "a_b.*", "a%b.*", r"a\b.*", "*", "orders.order"]
_TYPES = ["orders.order", "orders.order.paid", "x.completed", "project.a.b.updated", "a_b.c", "axb.c", "a-b.c"]


@pytest.mark.parametrize("pattern", _PATTERNS)
async def test_type_matches_agrees_with_python(record: Record, pattern: str) -> None:
    """Each type meets a pattern in both places or in neither."""
    async with record.engine.connect() as connection:
        found = await connection.execute(
            text("SELECT name FROM unnest(CAST(:types AS text[])) AS name WHERE type_matches(name, ARRAY[:pattern])"),
            {"types": _TYPES, "pattern": pattern},
        )

    assert set(found.scalars()) == {name for name in _TYPES if matches([pattern], name)}
