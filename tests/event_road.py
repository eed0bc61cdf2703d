"""Starting the programs of the event road for tests that kill them.

Owns their start and their end: whatever a test leaves running is killed. Their output goes to the test's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from headrace.settings import Settings

ROOT = Path(__file__).parent.parent
PROGRAM = ROOT / "tests" / "programs" / "event_road.py"

Start = Callable[[str], subprocess.Popen[bytes]]
"""Starts a program by its role."""


@contextmanager
def starting(settings: Settings, extra: Mapping[str, str] | None = None, *, program: Path = PROGRAM) -> Iterator[Start]:
    """Hand out a function that starts programs with these settings; kill those that still run at the end."""
    started: list[subprocess.Popen[bytes]] = []
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), **settings.as_environment(), **(extra or {})}

    def start(role: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, str(program), role], env=environment))  # noqa: S603 - our own
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.wait()
