"""When an interruption arrives: shields, errors, and what comes after the attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from headrace.clock import new_id, now
from headrace.database.record import Record
from headrace.jobs.model import Claim
from headrace.providers import Providers
from headrace.tasks.attempt import SOON_SECONDS, Attempt, Interruption
from headrace.tasks.contract import task
from headrace.tasks.execution import Execution
from headrace.tasks.run import Run


def attempt_here() -> Attempt:
    """Return an attempt that runs in the current asyncio task."""
    claim = Claim(new_id(), 1, 1, 3, "shop.greet", "default", "{}", "", now())
    return Attempt(claim, cast("asyncio.Task[Any]", asyncio.current_task()))


async def interrupted_later(attempt: Attempt, reason: Interruption = Interruption.REQUESTED) -> None:
    """Interrupt the attempt at one of the next turns of the loop."""
    asyncio.get_running_loop().call_later(0.01, attempt.interrupt, reason)


async def test_first_interruption_counts() -> None:
    """One cancellation, for the first reason."""
    attempt = attempt_here()
    attempt.interrupt(Interruption.REQUESTED)
    attempt.interrupt(Interruption.SHUTDOWN)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(0)
    attempt.end()

    assert attempt.interruption is Interruption.REQUESTED
    await asyncio.sleep(0.02)  # a second one would come here


async def test_nothing_is_left_of_an_interruption_when_the_attempt_has_ended() -> None:
    """Whoever goes on in the same asyncio task was not cancelled."""
    attempt = attempt_here()
    await interrupted_later(attempt)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(1)

    attempt.end()
    attempt.interrupt(Interruption.SHUTDOWN)

    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    async with asyncio.timeout(1):
        await asyncio.sleep(0.02)


async def test_interruption_waits_for_the_outermost_shield() -> None:
    """A section within a section ends nothing."""
    attempt, passed = attempt_here(), []
    await interrupted_later(attempt)

    with pytest.raises(asyncio.CancelledError):
        async with attempt.shield():
            async with attempt.shield():
                await asyncio.sleep(0.03)
            await asyncio.sleep(0.03)
            passed.append("to the end")
    attempt.end()

    assert passed == ["to the end"]


async def test_sections_of_two_asyncio_tasks_hold_both() -> None:
    """The last one that ends lets the interruption through."""
    attempt, passed = attempt_here(), []

    async def section(seconds: float) -> None:
        async with attempt.shield():
            await asyncio.sleep(seconds)
            passed.append(seconds)

    await interrupted_later(attempt)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.gather(section(0.03), section(0.06))
    attempt.end()

    assert passed == [0.03, 0.06]


async def test_error_of_a_section_passes_when_an_interruption_waits() -> None:
    """The error is what the task sees; the interruption comes if the task goes on."""
    attempt = attempt_here()
    await interrupted_later(attempt)

    with pytest.raises(ValueError, match="within"):
        async with attempt.shield():
            await asyncio.sleep(0.03)
            message = "from within"
            raise ValueError(message)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(1)
    attempt.end()


async def test_deferred_interruption_does_not_come_when_the_attempt_has_ended() -> None:
    """The error ended it: what runs next in the asyncio task is not cancelled."""
    attempt = attempt_here()
    await interrupted_later(attempt)

    with pytest.raises(ValueError, match="within"):
        async with attempt.shield():
            await asyncio.sleep(0.03)
            message = "from within"
            raise ValueError(message)
    attempt.end()

    await asyncio.sleep(0.02)


@pytest.mark.parametrize("seconds", [0.03, 0.0], ids=["while it lasts", "before"])
async def test_timeout_is_due_when_the_shield_ends(seconds: float) -> None:
    """It does not begin anew: who was overdue under the shield is overdue at its end."""
    attempt, passed = attempt_here(), []

    with pytest.raises(TimeoutError):
        async with attempt.bound(0.02):
            async with attempt.shield():
                await asyncio.sleep(seconds)
                passed.append("to the end")
            await asyncio.sleep(1)
    attempt.end()

    assert passed == ["to the end"]
    assert attempt.overdue


async def test_long_timeout_is_due_in_time_when_it_is_armed_late() -> None:
    """Its time counts from the beginning of the run; before it is armed, and under a shield, it waits."""
    attempt = attempt_here()
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    loop.call_later(SOON_SECONDS / 2, attempt.arm)

    with pytest.raises(TimeoutError):
        async with attempt.bound(SOON_SECONDS):
            async with attempt.shield():
                await asyncio.sleep(0.01)
            await asyncio.sleep(10)
    attempt.arm()
    attempt.end()

    assert SOON_SECONDS <= loop.time() - began_at < SOON_SECONDS + 1


async def test_execution_arms_the_attempts_under_way() -> None:
    """A task with a long timeout is ended by it."""

    @task("tests.patient", timeout_seconds=SOON_SECONDS)
    async def patient(run: Run) -> None:
        del run
        await asyncio.sleep(10)

    execution = Execution({patient.name: patient}, cast("Record", None), Providers({}))
    claim = Claim(new_id(), 1, 1, 1, patient.name, "default", "{}", "", now())

    outcome = await execution.execute(claim)

    assert outcome is not None
    assert outcome.failure is not None
    assert outcome.failure.outcome == "timed_out"


async def test_cleanup_may_shield_itself_when_the_timeout_has_come() -> None:
    """The timeout is over by then; it cannot be put off, and is not asked to be."""
    attempt, passed = attempt_here(), []

    async def clean() -> None:
        async with attempt.shield():
            await asyncio.sleep(0.01)
            passed.append("clean")

    with pytest.raises(TimeoutError):
        async with attempt.bound(0.01):
            await _finally(clean)
    attempt.end()

    assert passed == ["clean"]


async def _finally(clean: Callable[[], Awaitable[None]]) -> None:
    try:
        await asyncio.sleep(1)
    finally:
        await clean()
