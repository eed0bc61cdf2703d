"""`headrace up`: everything on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from headrace.commands.running import read_settings, run
from headrace.stack.up import up as run_stack


@click.command(help="Run everything on this machine: PostgreSQL, Redis and every process. Ready when it prints a line.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=None, help="of the API; 8000 by default, 0 for a free one"
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".headrace"),
    show_default=True,
    help="where everything is kept; it survives a restart",
)
def up(port: int | None, data_dir: Path) -> None:
    """Run the stack until a signal."""
    settings = read_settings()
    sys.exit(run(run_stack(settings, port=settings.port if port is None else port, data_dir=data_dir)))
