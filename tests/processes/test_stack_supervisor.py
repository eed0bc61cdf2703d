"""The supervisor, with small programs in the places of Headrace's own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from headrace.loops import Stop
from headrace.stack import stackfile
from headrace.stack.program import Program
from headrace.stack.readiness import until
from headrace.stack.stackfile import Whereabouts
from headrace.stack.supervisor import StartError, supervising
from tests.stacks import lives

WHEREABOUTS = Whereabouts(api_url="http://a", redis_url="redis://r", postgres_url="postgresql://p", mail_url="http://m")
WAITS = "import signal\nsignal.pause()"
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True: signal.pause()
"""
TELLS = """
import pathlib, signal, sys
def end(*_):
    with open({file!r}, "a") as file: file.write({name!r} + "\\n")
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
while True: signal.pause()
"""
# as Taskiq's command line: a tracker and a worker below a process that starts the worker again
MANAGES = """
import subprocess, sys
tracker = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()  # resource_tracker"])
while True: subprocess.run([sys.executable, "-c", "import signal; signal.pause()"])
"""


def program(name: str, code: str, *, stop_seconds: float = 10, work_in_child: bool = False) -> Program:
    """Return a program that runs Python code."""
    return Program(
        name=name,
        command=(sys.executable, "-c", code),
        environment={"PATH": os.defpath},
        stop_seconds=stop_seconds,
        work_in_child=work_in_child,
    )


def processes(directory: Path) -> dict[str, int]:
    """Return what stack.json says is running."""
    whereabouts = stackfile.read(directory)
    return dict(whereabouts.processes) if whereabouts else {}


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, and fail if it does not within 10 seconds."""

    async def holds() -> bool:
        return condition()

    assert await until(holds, timeout_seconds=10)


async def test_stack_file_is_true_when_a_process_was_killed(tmp_path: Path) -> None:
    """A killed process is started again, and stack.json names its successor, who lives."""
    async with supervising(tmp_path, WHEREABOUTS) as supervisor:
        supervisor.start(program("relay", WAITS))
        await eventually(lambda: "relay" in processes(tmp_path))
        first = processes(tmp_path)["relay"]

        os.kill(first, signal.SIGKILL)
        await eventually(lambda: processes(tmp_path).get("relay", first) != first)
        second = processes(tmp_path)["relay"]

        assert lives(second)
    assert not lives(second)
    assert stackfile.read(tmp_path) is None


async def test_stack_file_names_the_worker_when_a_manager_started_it(tmp_path: Path) -> None:
    """The process id is that of the worker, not of what starts it or tracks it, also after the worker was killed."""
    async with supervising(tmp_path, WHEREABOUTS) as supervisor:
        supervisor.start(program("worker", MANAGES, work_in_child=True))
        await eventually(lambda: "worker" in processes(tmp_path))
        first = processes(tmp_path)["worker"]
        manager = psutil.Process(first).ppid()

        os.kill(first, signal.SIGKILL)
        await eventually(lambda: processes(tmp_path).get("worker", first) != first)
        second = processes(tmp_path)["worker"]
        family = [manager, *(child.pid for child in psutil.Process(manager).children())]

        assert psutil.Process(second).ppid() == manager
    await eventually(lambda: not any(map(lives, family)))


async def test_processes_end_in_order_when_the_stack_stops(tmp_path: Path) -> None:
    """One group after the other, then what no group names, each asked to end and not killed."""
    told = tmp_path / "told"
    names = ("store", "relay", "api", "extra")
    async with supervising(tmp_path, WHEREABOUTS, (("api",), ("relay",), ("store",))) as supervisor:
        for name in names:
            supervisor.start(program(name, TELLS.format(file=str(told), name=name)))
        await eventually(lambda: all(is_ready(tmp_path, name) for name in names))

    assert told.read_text().split() == ["api", "relay", "store", "extra"]


async def test_process_is_killed_when_it_does_not_end(tmp_path: Path) -> None:
    """A process that ignores the request to end is killed after its time."""
    async with supervising(tmp_path, WHEREABOUTS) as supervisor:
        supervisor.start(program("api", STUBBORN, stop_seconds=0.3))
        await eventually(lambda: is_ready(tmp_path, "api"))
        stubborn = processes(tmp_path)["api"]
        began_at = time.monotonic()

    assert not lives(stubborn)
    assert 0.3 <= time.monotonic() - began_at < 5


async def test_processes_are_killed_when_there_is_no_time(tmp_path: Path) -> None:
    """A second signal does not wait for what is under way, but the stores still end properly."""
    told, hurry = tmp_path / "told", Stop()
    async with supervising(tmp_path, WHEREABOUTS, (("api",), ("store",)), hurry) as supervisor:
        supervisor.start(program("api", STUBBORN, stop_seconds=60))
        supervisor.start(program("store", TELLS.format(file=str(told), name="store")))
        await eventually(lambda: is_ready(tmp_path, "api") and is_ready(tmp_path, "store"))
        began_at = time.monotonic()
        hurry.set()

    assert time.monotonic() - began_at < 5
    assert told.read_text().split() == ["store"]


def is_ready(directory: Path, name: str) -> bool:
    """Tell whether a program said that it is ready to be stopped."""
    log = directory / "logs" / f"{name}.log"
    return log.exists() and "ready" in log.read_text()


async def test_start_fails_with_the_reason_when_a_process_cannot_start(tmp_path: Path) -> None:
    """A process that dies again and again while the stack comes up is named, with the end of its log."""
    async with supervising(tmp_path, WHEREABOUTS) as supervisor:
        supervisor.start(program("api", "raise SystemExit('no such thing as DATABASE')"))

        with pytest.raises(StartError, match=r"api does not start:(.|\n)*no such thing as DATABASE"):
            await supervisor.wait_for("the API", never, timeout_seconds=20)


async def test_start_fails_when_the_time_is_up(tmp_path: Path) -> None:
    """A part that runs and never answers is named."""
    async with supervising(tmp_path, WHEREABOUTS) as supervisor:
        supervisor.start(program("api", WAITS))

        with pytest.raises(StartError, match="the API did not come up"):
            await supervisor.wait_for("the API", never, timeout_seconds=0.2)


async def test_run_once_fails_with_the_reason_when_the_program_does(tmp_path: Path) -> None:
    """A migration that fails stops the start, and says why."""
    async with supervising(tmp_path, WHEREABOUTS) as supervisor:
        await supervisor.run_once(program("migrate", "pass"))

        with pytest.raises(StartError, match=r"migrate failed:(.|\n)*the database is ahead"):
            await supervisor.run_once(program("migrate", "raise SystemExit('the database is ahead')"))


async def test_processes_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    """A process of a stack does not outlive a killed supervisor: the kernel tells it."""
    supervisor = f"""
import asyncio, pathlib
from headrace.stack.supervisor import supervising
from tests.processes.test_stack_supervisor import WAITS, WHEREABOUTS, program
async def run():
    async with supervising(pathlib.Path({str(tmp_path)!r}), WHEREABOUTS) as supervisor:
        supervisor.start(program("api", WAITS))
        await asyncio.Event().wait()
asyncio.run(run())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", supervisor)
    await eventually(lambda: "api" in processes(tmp_path))
    pid = processes(tmp_path)["api"]

    process.kill()
    await process.wait()

    await eventually(lambda: not lives(pid))


async def test_processes_end_when_the_block_fails(tmp_path: Path) -> None:
    """Whatever ends the supervision, no process is left."""
    pids: list[int] = []

    async def fail() -> None:
        async with supervising(tmp_path, WHEREABOUTS) as supervisor:
            supervisor.start(program("api", WAITS))
            await eventually(lambda: "api" in processes(tmp_path))
            pids.append(processes(tmp_path)["api"])
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(fail(), timeout=1)

    [pid] = pids
    assert not lives(pid)


async def never() -> bool:
    """Answer no."""
    return False
