"""Anything may die at any time, again and again: what was accepted happens, and its effects happen once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.report import is_sound, report
from tests.chaos.run import Measure, run_chaos

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(240)]

SHORT = Measure(
    seed=7, seconds=9.0, jobs=300, lease_seconds=1.0, longest_seconds=1.5, every_seconds=0.8, patience_seconds=120.0
)


async def test_promise_is_kept_whatever_dies(
    tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """The short form of `just chaos`: mixed jobs, while every part of the deployment comes and goes."""
    result = await run_chaos(SHORT, tmp_path)

    record_testsuite_property("chaos", report(result))
    assert is_sound(result), report(result)
