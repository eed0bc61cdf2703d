"""The published table of names: what leaves the system is written down, and stays few."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.telemetry import names

PAGE = Path(__file__).parents[2] / "docs/telemetry.md"
PUBLISHED = {
    value
    for name, value in vars(names).items()
    if isinstance(value, str) and not name.startswith("_") and ("." in value or name.startswith("METRIC_"))
} - {names.__name__, names.__package__, names.__file__, names.__doc__}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_name_is_documented(name: str) -> None:
    """Whoever builds a dashboard finds every attribute and metric in the page."""
    assert f"`{name}`" in PAGE.read_text()


@pytest.mark.parametrize(
    ("types", "destination"),
    [
        (["orders.order.created"], "orders"),
        (["orders.order.created", "orders.order.confirmed"], "orders"),
        (["orders.order.created", "projects.task.completed"], "events"),
        ([], "events"),
    ],
)
def test_batch_destination_is_the_family_when_there_is_one(types: list[str], destination: str) -> None:
    """A batch is named by the family of its events, and by none of them where it mixes families."""
    assert names.batch_destination(types) == destination
