"""The tests that docs/chaos.md names are there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


def test_every_test_that_the_page_names_is_there() -> None:
    """A promise without its test would be read as kept."""
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "chaos.md").read_text()))
    there = {
        name for file in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }

    assert named
    assert named <= there
