"""Deadlines of many workers by one timer."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from headrace.subscribers.deadlines import Deadlines, DeliveryTimeoutError, Worker


def this_task() -> Worker:
    """Return the task that runs the test."""
    return cast("Worker", asyncio.current_task())


async def at_once() -> None:
    """Do nothing."""


async def for_ever() -> None:
    """Wait for nothing."""
    await asyncio.Event().wait()


async def test_nothing_happens_when_the_reaction_is_in_time() -> None:
    """A worker that was in time is not cancelled later."""
    deadlines = Deadlines(0.0)

    await deadlines.within(this_task(), at_once())
    deadlines.run_once()

    assert not this_task().cancelling()


async def test_reaction_is_cancelled_when_it_takes_too_long() -> None:
    """The deadline is told by its own error, and the worker can go on."""
    deadlines = Deadlines(0.0)
    asyncio.get_running_loop().call_soon(deadlines.run_once)

    with pytest.raises(DeliveryTimeoutError):
        await deadlines.within(this_task(), for_ever())

    assert not this_task().cancelling()
    await deadlines.within(this_task(), at_once())


async def test_cancellation_passes_when_it_is_not_the_deadlines() -> None:
    """A worker that somebody else cancels is cancelled."""
    deadlines = Deadlines(60.0)

    async def work() -> None:
        await deadlines.within(this_task(), for_ever())

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_error_passes_when_the_reaction_fails() -> None:
    """Its own error leaves, and nothing of the deadline stays."""

    async def fail() -> None:
        raise KeyError

    deadlines = Deadlines(0.0)

    with pytest.raises(KeyError):
        await deadlines.within(this_task(), fail())
    deadlines.run_once()

    assert not this_task().cancelling()


async def test_timer_cancels_when_it_runs_by_itself() -> None:
    """The timer looks often enough to be late by little."""
    deadlines = Deadlines(0.05)
    timer = asyncio.create_task(deadlines.run())

    with pytest.raises(DeliveryTimeoutError):
        async with asyncio.timeout(5):
            await deadlines.within(this_task(), for_ever())

    timer.cancel()
