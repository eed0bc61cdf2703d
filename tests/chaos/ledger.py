"""The ledger: what tasks do in the world outside, one line each, in a file that survives the death of any process.

Owns the format of these lines. A line is one write to a file opened for appending, so that lines of many processes
never mix and what was written before a SIGKILL stays. No transaction reaches here: an attempt that is undone on record
has left its lines all the same, which is what effects outside PostgreSQL are like.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from uuid import UUID

from headrace.tasks.run import Run
from headrace.tasks.sync_run import SyncRun
from tests.history import Began

_BEGAN: Final = "began"
_DID: Final = "did"


def note_begin(run: Run | SyncRun, ledger: str) -> None:
    """Write down that this run began."""
    _append(ledger, f"{_BEGAN} {run.job_id} {run.attempt} {run.fence}")


def note_effect(run: Run | SyncRun, ledger: str) -> None:
    """Make the effect outside PostgreSQL, which names its idempotency key."""
    _append(ledger, f"{_DID} {run.idempotency_key}")


def read_ledger(ledger: Path) -> tuple[list[Began], list[str]]:
    """Return the runs that began, and the idempotency keys of the effects, in the order of their happening."""
    lines = [line.split() for line in ledger.read_text().splitlines()] if ledger.exists() else []
    began = [Began(UUID(line[1]), int(line[2]), int(line[3])) for line in lines if line[0] == _BEGAN]
    return began, [line[1] for line in lines if line[0] == _DID]


def _append(ledger: str, line: str) -> None:
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{line}\n".encode())
    finally:
        os.close(file)
