"""`headrace jobs`: what an operator does with jobs.

Owns the table of these commands; each is imported when it runs.
"""

from __future__ import annotations

from typing import Final

from headrace.commands.lazy import LazyGroup

_COMMANDS: Final = {
    "list": ("headrace.commands.jobs_reading:list_", "List jobs, newest first"),
    "show": ("headrace.commands.jobs_reading:show", "Show a job with its attempts and its way through the states"),
    "explain": ("headrace.commands.jobs_reading:explain", "Say why a job is not running, and when it may start"),
    "retry": ("headrace.commands.jobs_changing:retry", "Make stopped jobs pending again"),
    "cancel": ("headrace.commands.jobs_changing:cancel", "Cancel unfinished jobs"),
    "run": ("headrace.commands.jobs_running:run_task", "Enqueue a job, and wait for it if asked to"),
}

jobs: Final = LazyGroup("jobs", _COMMANDS, help="List, show, explain, retry, cancel and run jobs.")
