"""Anything may die at any time, again and again: every event is handled by every subscription, in order, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.event_report import is_sound, report
from tests.chaos.event_run import EventMeasure, run_event_chaos

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(240)]

SHORT = EventMeasure(
    seed=11, seconds=9.0, events=2000, keys=50, lease_seconds=1.0, every_seconds=0.8, patience_seconds=120.0
)


async def test_promise_is_kept_for_events_whatever_dies(
    tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """The short form of `just chaos` for events: relays, consumers and both stores come and go."""
    result = await run_event_chaos(SHORT, tmp_path)

    record_testsuite_property("chaos of events", report(result))
    assert is_sound(result), report(result)
