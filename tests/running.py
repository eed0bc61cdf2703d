"""The application `running`: tasks that show where functions run and how they are interrupted.

Processes load it as `HEADRACE_APPLICATIONS=tests.trial:application,tests.running:application`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from headrace.application import Application
from headrace.jobs.retry import PermanentError, Retry, Snooze
from headrace.tasks.contract import task
from headrace.tasks.run import Run
from headrace.tasks.sync_run import InterruptedRunError, SyncRun, ThreadRun
from headrace.telemetry.propagation import trace_id_now
from tests import trial

ONCE = Retry(max_attempts=1)


def note(directory: str, line: str) -> None:
    """Write down what happened, where the test reads it."""
    with (Path(directory) / "notes").open("a") as notes:
        notes.write(f"{line}\n")


async def store(run: Run, key: str) -> int:
    """Write an effect through the session of a run."""
    return await trial.write.function(run, key)


@task("running.wait", timeout_seconds=None)
async def wait(run: Run, directory: str) -> None:
    """Write an effect and wait; clean up with an await when interrupted."""
    await store(run, "waiting")
    note(directory, "begun")
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.05)
        note(directory, "cleaned up")


@task("running.shielded", timeout_seconds=None, retry=ONCE)
async def shielded(run: Run, directory: str) -> None:
    """Take some time under a shield, then wait."""
    async with run.shield():
        note(directory, "begun")
        await asyncio.sleep(1.0)
        note(directory, "shielded to its end")
    note(directory, "never")
    await asyncio.sleep(60)


@task("running.shielded_too_long", timeout_seconds=0.2, retry=ONCE)
async def shielded_too_long(run: Run, directory: str) -> None:
    """Be overdue under a shield."""
    async with run.shield():
        await asyncio.sleep(0.5)
        note(directory, "shielded to its end")
    note(directory, "never")


@task("running.thread")
def thread(run: ThreadRun, key: str, name: str = "Ada") -> list[str]:
    """Tell where this runs, store an effect, and report progress."""
    run.progress(1, 2, "half")
    run.on_loop(store, key)
    run.progress(2, 2, "whole")
    logging.getLogger("running").warning("in the thread")
    return [name, threading.current_thread().name, trace_id_now(), run.idempotency_key]


@task("running.failing_thread", retry=Retry(max_attempts=2, first_delay_seconds=0.02, never=(KeyError,)))
def failing_thread(run: SyncRun, error: str) -> str | Snooze:
    """Fail, or wish, as asked."""
    if error == "snooze" and run.attempt == 1 and run.fence == 1:
        return Snooze(0.05)
    if error == "permanent":
        raise PermanentError(error)
    if error == "key":
        raise KeyError(error)
    if error == "stop":
        raise StopIteration(error)
    return error


@task("running.looking_thread", timeout_seconds=None, retry=ONCE)
def looking_thread(run: ThreadRun, directory: str) -> None:
    """Look at the run in a long loop."""
    run.on_loop(store, "looking")
    note(directory, "begun")
    try:
        while True:
            time.sleep(0.02)
            run.check()
    except InterruptedRunError:
        note(directory, "noticed")
        raise


@task("running.overdue_thread", timeout_seconds=0.2, retry=ONCE)
def overdue_thread(run: ThreadRun, directory: str, seconds: float) -> None:
    """Sleep without a look at the run, then look."""
    time.sleep(seconds)
    note(directory, f"interrupted: {run.interrupted}")
    run.progress(1, 1)
    note(directory, "never")


@task("running.stuck_thread", timeout_seconds=None)
def stuck_thread(run: ThreadRun, directory: str) -> None:
    """Never look at the run."""
    del run
    note(directory, "begun")
    time.sleep(300)


@task("running.shielded_thread", timeout_seconds=None, retry=ONCE)
def shielded_thread(run: ThreadRun, directory: str) -> None:
    """Take some time under a shield."""
    with run.shield():
        note(directory, "begun")
        time.sleep(1.0)
        note(directory, "shielded to its end")
    note(directory, "never")


@task("running.process", runs_in="process")
def process(run: SyncRun, number: int) -> list[int]:
    """Tell where this runs, and report progress."""
    run.progress(number, number, "counted")
    print("noise on standard output")  # noqa: T201 - what a task may do
    return [number, os.getpid(), os.getppid()]


@task("running.failing_process", runs_in="process", retry=Retry(max_attempts=2, first_delay_seconds=0.02))
def failing_process(run: SyncRun, error: str) -> object:
    """Fail, or wish, as asked."""
    if error == "snooze" and run.fence == 1:
        return Snooze(0.05)
    if error == "permanent":
        raise PermanentError(error)
    if error == "value":
        raise ValueError(error)
    if error == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if error == "exit":
        os._exit(3)
    return object() if error == "object" else error


@task("running.spin", runs_in="process", timeout_seconds=None, retry=ONCE)
def spin(run: SyncRun, directory: str, grandchild: bool = False) -> None:  # noqa: FBT001, FBT002 - an argument of a job
    """Keep a CPU busy for ever, with a process of its own if asked."""
    del run
    if grandchild:
        started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
        note(directory, f"started {started.pid}")
    note(directory, f"pid {os.getpid()}")
    try:
        while True:
            pass
    finally:
        note(directory, "cleaned up")


@task("running.overdue_process", runs_in="process", timeout_seconds=0.5, retry=ONCE)
def overdue_process(run: SyncRun, directory: str) -> None:
    """Keep a CPU busy and ignore every request to end."""
    del run
    note(directory, f"pid {os.getpid()}")
    while True:
        try:
            time.sleep(60)
        except InterruptedRunError:
            note(directory, "ignored")


application = Application(
    name="running",
    tasks=(
        wait, shielded, shielded_too_long, thread, failing_thread, looking_thread, overdue_thread, stuck_thread,
        shielded_thread, process, failing_process, spin, overdue_process,
    ),
)  # fmt: skip
