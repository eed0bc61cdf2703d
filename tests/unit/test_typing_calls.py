"""mypy knows the signature of a task wherever it is called: a wrong argument does not get as far as a test."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SNIPPET = """
from datetime import timedelta
from uuid import UUID

from headrace.jobs.call import Call, Options
from headrace.jobs.retry import Cancel, Snooze
from headrace.tasks.contract import task
from headrace.tasks.run import Run
from headrace.tasks.sync_run import SyncRun, ThreadRun
from headrace.transaction import Transaction


@task("shop.greet", timeout_seconds=5)
async def greet(run: Run, name: str, times: int = 1) -> list[str]:
    return [name] * times


@task("shop.draw")
def draw(run: ThreadRun, title: str) -> bytes:
    return title.encode()


@task("shop.count", runs_in="process")
def count(run: SyncRun, to: int) -> int:
    return to


async def store(run: Run, title: str) -> int:
    return len(title)


@task("shop.file")
def file(run: ThreadRun, title: str) -> int:
    run.on_loop(store, 1)  # WRONG arg-type
    stored: int = run.on_loop(store, title)
    return stored


@task("shop.later")
async def later(run: Run, name: str) -> int | Snooze | Cancel:
    return len(name) or Snooze(60)


async def right(tx: Transaction) -> None:
    length: int = (await (await later.kiq("Ada")).wait_result()).return_value
    sent = await greet.kiq("Ada", times=2)
    result = await sent.wait_result()
    names: list[str] = result.return_value
    first: UUID = await tx.enqueue(greet, "Ada")
    second: UUID = await tx.enqueue(greet.options(Options(priority=9)), name="Ada", times=3)
    call: Call = greet.call("Ada", 2)
    drawn: bytes = (await (await draw.kiq("cover")).wait_result()).return_value
    counted: UUID = await tx.enqueue(count, to=3)


async def wrong(tx: Transaction) -> None:
    await greet.kiq(1)  # WRONG call-overload
    await greet.kiq()  # WRONG call-overload
    await greet.kiq("Ada", often=2)  # WRONG call-overload
    await tx.enqueue(greet, 1)  # WRONG arg-type
    await tx.enqueue(greet)  # WRONG call-arg
    await tx.enqueue(greet, "Ada", "twice")  # WRONG arg-type
    await tx.enqueue(greet.options(Options(priority=9)), None)  # WRONG arg-type
    await tx.enqueue(wrong, "Ada")  # WRONG arg-type
    greet.call("Ada", times="2")  # WRONG arg-type
    greet.options(Options(priority="high"))  # WRONG arg-type
    await draw.kiq(1)  # WRONG call-overload
    await tx.enqueue(count, "three")  # WRONG arg-type
    wish: Snooze = (await (await later.kiq("Ada")).wait_result()).return_value  # WRONG assignment
    number: int = (await (await greet.kiq("Ada")).wait_result()).return_value  # WRONG assignment


@task("shop.no_run")  # WRONG arg-type
async def no_run() -> None: ...


@task("shop.blocking")  # WRONG arg-type
def blocking(run: Run) -> None: ...
"""


@pytest.mark.slow
def test_mypy_accepts_right_calls_and_rejects_each_wrong_one(tmp_path: Path) -> None:
    """Exactly the lines that are marked as wrong have errors, of the kind that is meant."""
    snippet = tmp_path / "calls_of_a_task.py"
    snippet.write_text(SNIPPET)

    checked = subprocess.run(  # noqa: S603 - the checker of this environment
        [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(snippet)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    found = re.findall(r"calls_of_a_task\.py:(\d+): error: .*\[([\w-]+)\]$", checked.stdout, re.MULTILINE)
    expected = [
        (str(number), line.rsplit(" ", 1)[1])
        for number, line in enumerate(SNIPPET.splitlines(), start=1)
        if "# WRONG" in line
    ]
    assert list(dict.fromkeys(found)) == expected, checked.stdout + checked.stderr
