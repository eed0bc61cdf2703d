"""Taskiq's worker, with its code loaded before it forks.

Owns the start of the stack's workers: `taskiq worker …` as it is, in a process that has imported Headrace and the
applications first. Taskiq forks its worker processes from this one, so a worker that was killed is back without
importing anything: on a busy machine that is seconds of the time until its jobs run again. Nothing is opened before
the fork.
"""

from __future__ import annotations

import os

from taskiq.__main__ import main as taskiq

from headrace.resources import build_registry
from headrace.settings import Settings


def main() -> None:
    """Load the applications that the settings name, then be Taskiq."""
    build_registry(Settings.from_environment(os.environ))
    taskiq()


if __name__ == "__main__":
    main()
