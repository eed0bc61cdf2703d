"""An application whose one task writes down when it began.

Owns the task `bench.noted`, which appends its job's id and the moment to the file named by `BENCH_NOTED`. What is
measured ends with the first line of the task.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from headrace.application import Application
from headrace.tasks.contract import task
from headrace.tasks.run import Run

VARIABLE = "BENCH_NOTED"


@task("bench.noted")
async def noted(run: Run, number: int) -> int:
    """Write the moment down."""
    moment = time.time_ns()
    if path := os.environ.get(VARIABLE):
        with Path(path).open("a") as file:  # noqa: ASYNC230 - a line in the page cache, some microseconds
            file.write(f"{run.job_id} {moment}\n")
    return number


application = Application(name="bench", tasks=(noted,))
