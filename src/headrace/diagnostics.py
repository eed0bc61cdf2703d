"""The bundled tasks for trying a deployment out.

Owns `diagnostics.echo`, `.sleep`, `.fail` and `.count`, which every Headrace has. They are ordinary tasks on the
public API.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import msgspec

from headrace.application import Application
from headrace.jobs.retry import PermanentError, Retry
from headrace.tasks.contract import task
from headrace.tasks.run import Run

_A_DAY: Final = 86_400.0
_A_MILLION: Final = 1_000_000


class DeliberateError(Exception):
    """What `diagnostics.fail` raises."""


class DeliberatePermanentError(PermanentError):
    """What `diagnostics.fail` raises when it is told to fail for good."""


@task("diagnostics.echo")
async def echo(run: Run, value: object) -> object:
    """Return the value."""
    del run
    return value


@task("diagnostics.sleep", timeout_seconds=None)
async def sleep(run: Run, seconds: Annotated[float, msgspec.Meta(ge=0, le=_A_DAY)]) -> float:
    """Wait that many seconds and return their number."""
    del run
    await asyncio.sleep(seconds)
    return seconds


@task("diagnostics.fail", retry=Retry(max_attempts=10, first_delay_seconds=0.2, max_delay_seconds=2.0))
async def fail(
    run: Run,
    times: Annotated[int, msgspec.Meta(ge=0, le=_A_MILLION)],
    message: str = "as asked",
    permanent: bool = False,  # noqa: FBT001, FBT002 - the contract's argument
) -> int:
    """Fail the first `times` attempts with the message, for good if `permanent`; return the attempt that succeeded."""
    if run.attempt <= times:
        raise DeliberatePermanentError(message) if permanent else DeliberateError(message)
    return run.attempt


@task("diagnostics.count", timeout_seconds=None)
async def count(
    run: Run,
    to: Annotated[int, msgspec.Meta(ge=0, le=_A_MILLION)],
    pause_seconds: Annotated[float, msgspec.Meta(ge=0, le=_A_DAY)] = 0.1,
) -> int:
    """Count to a number, pausing after each step, and report the progress."""
    for done in range(1, to + 1):
        await asyncio.sleep(pause_seconds)
        await run.progress(done, to, f"counted to {done}")
    return to


application = Application(name="diagnostics", tasks=(echo, sleep, fail, count))
