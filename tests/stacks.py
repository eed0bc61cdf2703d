"""A whole stack for a test: `headrace up` as a process of its own.

Owns the start, the kill and the end of an `up`, and the questions that tests ask of it over HTTP. Its ports are free
ones, so several may run at a time. Never leave a stack running: use `running_stack`.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from headrace.stack import stackfile
from headrace.stack.account import Account
from headrace.stack.program import Program
from headrace.stack.stackfile import Whereabouts

READY_SECONDS = 60.0
STOP_SECONDS = 60.0


class Stack:
    """An `up` on a directory, which a test may kill and start again."""

    def __init__(
        self, directory: Path, *, environment: Mapping[str, str] | None = None, account: Account | None = None
    ) -> None:
        self.directory = directory
        self.line = ""
        self._program = Program(
            name="up",
            command=(sys.executable, "-m", "headrace.cli", "up", "--port", "0", "--data-dir", str(directory)),
            environment={"PATH": os.environ["PATH"], **(environment or {})},
            account=account,
        )
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> float:
        """Start it, wait for its line, and return the seconds that this took."""
        began_at = time.monotonic()
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            self._program.argv(),
            env=dict(self._program.environment),
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=self.directory.with_suffix(".stderr").open("a"),
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        answered, _, _ = select.select([self._process.stdout], [], [], READY_SECONDS)
        self.line = self._process.stdout.readline() if answered else ""
        assert self.line, self.told()
        return time.monotonic() - began_at

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end, and return its exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(STOP_SECONDS)

    def is_running(self) -> bool:
        """Tell whether it runs."""
        return self._process is not None and self._process.poll() is None

    def told(self) -> str:
        """Return what it and its processes wrote, for the message of a failed test."""
        logs = (self.directory / "logs").glob("*.log")
        parts = [self.directory.with_suffix(".stderr"), *logs]
        return "\n".join(f"--- {path.name}\n{path.read_text()[-2000:]}" for path in parts)

    @property
    def where(self) -> Whereabouts:
        """What stack.json says now."""
        whereabouts = stackfile.read(self.directory)
        assert whereabouts is not None, "there is no stack.json"
        return whereabouts

    @property
    def key(self) -> str:
        """The API key that the line names."""
        found = re.search(r"key (\S+)", self.line)
        assert found is not None, self.line
        return found[1]

    def client(self) -> httpx.Client:
        """Return a client of its API, with its key."""
        return httpx.Client(
            base_url=self.where.api_url, headers={"Authorization": f"Bearer {self.key}"}, timeout=30, trust_env=False
        )

    def is_healthy(self) -> bool:
        """Tell whether every part is seen alive."""
        try:
            return httpx.get(f"{self.where.api_url}/health/system", timeout=5).is_success
        except httpx.TransportError:
            return False


@contextmanager
def running_stack(
    directory: Path, *, environment: Mapping[str, str] | None = None, account: Account | None = None
) -> Iterator[Stack]:
    """Run a stack until the block ends."""
    stack = Stack(directory, environment=environment, account=account)
    try:
        stack.start()
        yield stack
    finally:
        if stack.is_running():
            stack.stop()


def eventually(condition: Callable[[], bool], *, within_seconds: float, told: Callable[[], str] = str) -> None:
    """Wait until the condition holds, and fail if it does not in time, saying what `told` returns."""
    ends_at = time.monotonic() + within_seconds
    while not condition():
        assert time.monotonic() < ends_at, told()
        time.sleep(0.05)


def lives(pid: int) -> bool:
    """Tell whether a process runs; one that is dead and not yet collected by its parent does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
