"""The command line for tests: a process of its own on the record of a road."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tests.road import Road

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    """What a command has printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - any JSON
        """What it printed, as JSON."""
        return msgspec.json.decode(self.out)


async def headrace(road: Road, *arguments: str, stdin: str | None = None, **variables: str) -> Ended:
    """Run a command on the record of a road, with this text on its standard input."""
    process = await started(road, *arguments, reads=stdin is not None, **variables)
    out, err = await process.communicate(None if stdin is None else stdin.encode())
    return Ended(process.returncode or 0, out.decode(), err.decode())


async def started(road: Road, *arguments: str, reads: bool = False, **variables: str) -> asyncio.subprocess.Process:
    """Start a command on the record of a road."""
    own = road.settings.as_environment() | variables
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "headrace.cli", *arguments),
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            **{name: value for name, value in own.items() if value},
        },
        stdin=asyncio.subprocess.PIPE if reads else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
