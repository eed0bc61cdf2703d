"""`headrace demo`: the order journey, live."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from headrace.commands.running import read_settings, run
from headrace.stack.demo.show import demo as play


@click.command(help="Create and confirm a real order, show what follows, then kill a worker in the middle of another.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=None,
    help="use the stack that `headrace up` runs there; one of its own where it is not given",
)
def demo(data_dir: Path | None) -> None:
    """Play the demo; exit 0 only if all of it happened."""
    sys.exit(run(play(read_settings(), data_dir=data_dir)))
