"""What a process of the stack is, before it runs.

Owns `Program`: a command with its environment, its account and the way to end it. Values only; `child` runs them.
Never run a program without `argv`: it ties the process to its parent, so that none outlives a killed supervisor for
long.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from headrace.stack.account import Account

LAUNCHER = Path(__file__).with_name("launch.py")


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """A process to be: `command[0]` is an absolute path and `environment` is the whole of it.

    `work_in_child` says that the command only starts the process that works, as Taskiq's command line does.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    working_directory: Path = Path("/")
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 30.0
    work_in_child: bool = False

    def argv(self) -> tuple[str, ...]:
        """Return what to execute from this process."""
        launcher = (sys.executable, "-I", "-S", str(LAUNCHER))
        return (*launcher, str(os.getpid()), str(int(self.stop_signal)), str(self.account or "-"), *self.command)
