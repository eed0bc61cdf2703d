"""Patterns of event types: which types meet them."""

from __future__ import annotations

import pytest

from headrace.errors import InvalidInputError
from headrace.events.patterns import checked, like, matches


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("orders.*", "orders.order.confirmed", True),
        ("orders.*", "orders", False),
        ("*.completed", "projects.task.completed", True),
        ("*.completed", "projects.task.completed_late", False),
        ("project.*.updated", "project.member.role.updated", True),
        ("orders.order.confirmed", "orders.order.confirmed", True),
        ("orders.order", "orders.order.confirmed", False),
        ("orders_x.*", "ordersax.order", False),
        ("*", "anything.at-all", True),
    ],
)
def test_pattern_matches_any_run_of_characters(pattern: str, name: str, *, expected: bool) -> None:
    """A star stands for any run of characters, dots too; everything else for itself."""
    assert matches([pattern], name) is expected


def test_like_escapes_what_sql_would_read_as_a_wildcard() -> None:
    """An underscore of a type is an underscore."""
    assert like("a_b.*") == r"a\_b.%"


@pytest.mark.parametrize("pattern", ["", "Orders.*", "a b", "a?", "x" * 201])
def test_malformed_pattern_is_refused_with_its_field(pattern: str) -> None:
    """What no type could ever meet is an error of the caller."""
    with pytest.raises(InvalidInputError) as refused:
        checked(pattern, field="types.0")

    assert refused.value.errors[0].field == "types.0"
