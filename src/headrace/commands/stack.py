"""`headrace up` and `headrace demo`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click

from headrace.settings import Settings
from headrace.stack.demo.show import demo as show_demo
from headrace.stack.up import up as run_up

_DEFAULT_DIRECTORY = Path("headrace-data")


@click.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Of the API; 0 for a free one."
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=_DEFAULT_DIRECTORY,
    show_default=True,
    help="Where everything is kept.",
)
def up(port: int, data_dir: Path) -> None:
    """Start everything on loopback: PostgreSQL, Redis and every process."""
    settings = Settings.from_environment(os.environ)
    sys.exit(asyncio.run(run_up(settings, port=port, data_dir=data_dir)))


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="Play on the stack that `headrace up` runs here, instead of on one of its own.",
)
def demo(data_dir: Path | None) -> None:
    """Confirm an order, show what follows, then kill a worker in the middle of another one."""
    settings = Settings.from_environment(os.environ)
    sys.exit(asyncio.run(show_demo(settings, data_dir=data_dir)))
