"""The one loop."""

from __future__ import annotations

import asyncio

import pytest

from headrace.loops import Pace, Stop, repeat

QUICK = Pace(0.001, first_backoff_seconds=0.001, last_backoff_seconds=0.01)


async def test_repeat_runs_the_step_until_stopped() -> None:
    """The step runs again and again, and not after the stop."""
    stop, runs = Stop(), 0

    async def step() -> None:
        nonlocal runs
        runs += 1
        if runs == 3:
            stop.set()

    async with asyncio.timeout(5):
        await repeat("step", step, QUICK, stop)

    assert runs == 3


async def test_repeat_goes_on_when_the_step_fails() -> None:
    """A fault of a store does not end a part."""
    stop, runs = Stop(), 0

    async def step() -> None:
        nonlocal runs
        runs += 1
        if runs < 4:
            raise ConnectionError
        stop.set()

    async with asyncio.timeout(5):
        await repeat("step", step, QUICK, stop)

    assert runs == 4


async def test_repeat_runs_nothing_when_stopped_before() -> None:
    """A flag that is set already means: not once."""
    stop = Stop()
    stop.set()

    async def step() -> None:
        pytest.fail("it ran")

    await repeat("step", step, QUICK, stop)


async def test_repeat_passes_a_cancellation() -> None:
    """Cancellation is no fault to be survived."""
    began = asyncio.Event()

    async def step() -> None:
        began.set()
        await asyncio.Event().wait()

    loop = asyncio.create_task(repeat("step", step, QUICK, Stop()))
    await began.wait()
    loop.cancel()

    with pytest.raises(asyncio.CancelledError):
        await loop


async def test_repeat_ends_at_once_when_stopped_in_a_long_pause() -> None:
    """Nobody waits out an interval at a shutdown."""
    stop, ran = Stop(), asyncio.Event()

    async def step() -> None:
        ran.set()

    loop = asyncio.create_task(repeat("step", step, Pace(3600.0), stop))
    await ran.wait()
    stop.set()

    async with asyncio.timeout(1):
        await loop


def test_backoff_grows_and_stays_within_its_bounds() -> None:
    """Full jitter between half the first pause and the last bound, for any number of failures."""
    pace = Pace(1.0, first_backoff_seconds=0.1, last_backoff_seconds=5.0)

    pauses = [pace.backoff_seconds(failures) for failures in (1, 2, 5, 20, 10_000) for _ in range(100)]

    assert min(pauses) >= 0.05
    assert max(pauses[:100]) <= 0.2
    assert max(pauses) <= 5.0
    assert max(pauses[-100:]) > 2.0


async def test_stop_tells_whether_it_is_set_when_waited_for() -> None:
    """The wait ends with the answer."""
    stop = Stop()

    before = await stop.wait(0.001)
    stop.set()
    after = await stop.wait(0.001)

    assert (before, after) == (False, True)
