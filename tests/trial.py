"""The application `trial`: tasks that show how the jobs road treats what a task may do.

Owns its table of effects, which `prepare` makes, and tasks that write one row through their session, fail, return
odd values or end their process. Processes load it as `HEADRACE_APPLICATIONS=tests.trial:application`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import asyncpg
from sqlalchemy import text

from headrace.application import Application
from headrace.jobs.retry import PermanentError, Retry
from headrace.tasks.contract import task
from headrace.tasks.run import Run

FAST = Retry(max_attempts=3, first_delay_seconds=0.02, max_delay_seconds=0.05)
STRICT = Retry(max_attempts=6, first_delay_seconds=0.02, max_delay_seconds=0.05, on=(ValueError,))
"""Names no error of PostgreSQL: one that goes away under a task must not be deadly all the same."""
TABLE = """
    CREATE TABLE trial_effects (
        key text NOT NULL, job_id uuid NOT NULL, attempt integer NOT NULL, at timestamptz NOT NULL DEFAULT now())
"""
_WRITE = text("INSERT INTO trial_effects (key, job_id, attempt) VALUES (:key, :job_id, :attempt)")


class UnspeakableError(Exception):
    """An error that cannot even say what it is."""

    def __str__(self) -> str:
        message = "no text"
        raise ValueError(message)


def _cancelled() -> BaseException:
    return asyncio.CancelledError()


ERRORS: dict[str, Callable[[], BaseException]] = {
    "value": lambda: ValueError("as asked"),
    "permanent": lambda: PermanentError("never again"),
    "exit": lambda: SystemExit(3),
    "cancelled": _cancelled,
    "nul": lambda: ValueError("a\x00b"),
    "surrogate": lambda: ValueError("a\ud800b"),
    "unspeakable": UnspeakableError,
    "group": lambda: BaseExceptionGroup("several", [SystemExit(1), ValueError("x")]),
}

VALUES: dict[str, Callable[[], object]] = {
    "object": object,
    "large": lambda: "x" * 300_000,
    "nul": lambda: "a\x00b",
    "text about nul": lambda: "a\\u0000b",
    "surrogate": lambda: "\ud800",
    "huge number": lambda: 10**1000,
}


@task("trial.add")
async def add(run: Run, a: int, b: int = 1) -> int:
    """Return the sum."""
    del run
    return a + b


@task("trial.fail", retry=FAST)
async def fail(run: Run, error: str) -> None:
    """Raise one of `ERRORS`."""
    del run
    made = ERRORS[error]()
    raise made


@task("trial.picky", retry=Retry(max_attempts=3, first_delay_seconds=0.02, on=(OSError,)))
async def picky(run: Run) -> None:
    """Raise an error that the policy does not name."""
    del run
    message = "not an OSError"
    raise ValueError(message)


@task("trial.give", retry=FAST)
async def give(run: Run, value: str) -> object:
    """Return one of `VALUES`."""
    del run
    return VALUES[value]()


@task("trial.write", retry=STRICT)
async def write(run: Run, key: str, seconds: float = 0.0, fail_first: int = 0) -> int:
    """Write an effect through the session, wait at the first attempt, and fail the first ones after that."""
    tx = await run.begin()
    await tx.connection.execute(_WRITE, {"key": key, "job_id": run.job_id, "attempt": run.attempt})
    if run.attempt == 1:
        await asyncio.sleep(seconds)
    if run.attempt <= fail_first:
        message = "after the write"
        raise ValueError(message)
    return run.attempt


@task("trial.late", retry=STRICT)
async def late(run: Run, key: str, seconds: float) -> int:
    """Wait at the first attempt, without a session; then write an effect through it."""
    if run.attempt == 1:
        await asyncio.sleep(seconds)
    return await write.function(run, key)


@task("trial.write_and_enqueue")
async def write_and_enqueue(run: Run, key: str) -> UUID:
    """Write an effect and enqueue a job in one transaction."""
    await write.function(run, key)
    return await (await run.begin()).enqueue(add, 1, 1)


@task("trial.write_unstorable", retry=FAST)
async def write_unstorable(run: Run, key: str) -> object:
    """Write an effect past SQLAlchemy, and return what cannot be stored."""
    driver = await (await run.begin()).driver()
    await driver.execute("INSERT INTO trial_effects (key, job_id, attempt) VALUES ($1, $2, 1)", key, run.job_id)
    return object()


@task("trial.overdue", retry=FAST, timeout_seconds=0.05)
async def overdue(run: Run) -> None:
    """Take longer than the timeout."""
    del run
    await asyncio.sleep(30)


@task("trial.stubborn", timeout_seconds=None)
async def stubborn(run: Run, seconds: float) -> str:
    """Go on after a cancellation, for that long."""
    del run
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        await asyncio.sleep(seconds)
    return "I ended when I liked"


@task("trial.block", timeout_seconds=None)
async def block(run: Run, seconds: float) -> int:
    """Block the event loop, as a task should not."""
    time.sleep(seconds)  # noqa: ASYNC251 - the fault that is tried here
    return run.attempt


@task("trial.die", retry=Retry(max_attempts=3, first_delay_seconds=0.02))
async def die(run: Run) -> None:
    """End the worker's process."""
    del run
    os._exit(9)


@task("trial.mark", timeout_seconds=None)
async def mark(run: Run, directory: str, seconds: float) -> int:
    """Leave a file named as the attempt, an effect outside PostgreSQL; the first attempt waits after that."""
    await asyncio.to_thread((Path(directory) / f"{run.job_id}-{run.attempt}").touch)
    if run.attempt == 1:
        await asyncio.sleep(seconds)
    return run.attempt


@task("trial.told", queue="hooks", priority=7)
async def told(run: Run, job_id: UUID, task: str, error: str) -> None:
    """Write an effect for a job that is dead."""
    tx = await run.begin()
    await tx.connection.execute(_WRITE, {"key": f"{task}: {error}", "job_id": job_id, "attempt": run.attempt})


@task("trial.doomed", retry=FAST, on_dead=told)
async def doomed(run: Run, error: str) -> None:
    """Raise one of `ERRORS`."""
    await fail.function(run, error)


@task("trial.parents")
async def parents(run: Run) -> dict[str, object]:
    """Return what can be known of the parents."""
    return {"results": await run.parents(), "states": await run.parent_states()}


@task("trial.double")
async def double(run: Run, parent: str) -> int:
    """Return twice what a parent returned."""
    return 2 * await run.parent(parent, int)


@task("trial.work_once", retry=STRICT)
async def work_once(run: Run, key: str, seconds: float) -> int:
    """Write an effect once for a key, and return which attempt did; the first one waits after it."""

    async def work() -> int:
        return await write.function(run, key, seconds)

    return await run.once("trial", key, work, returns=int)


@task("trial.mark_claimed", retry=STRICT, timeout_seconds=None)
async def mark_claimed(run: Run, directory: str, seconds: float) -> bool:
    """Leave a mark, an effect outside, unless it was left before; the first attempt waits after it."""
    async with run.claim(directory, 3600) as mine:
        if mine:
            await mark.function(run, directory, seconds)
    return mine


application = Application(
    name="trial",
    tasks=(
        add, fail, picky, give, write, late, write_and_enqueue, write_unstorable, overdue, stubborn, block, die, mark,
        told, doomed, parents, double, work_once, mark_claimed,
    ),
    migrations="storefront.migrations",  # what the tests' databases have
)  # fmt: skip


async def prepare(database_url: str) -> None:
    """Make the table of effects."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(TABLE)
    finally:
        await connection.close()
