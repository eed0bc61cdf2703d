"""`headrace relay`: from the record to the belt."""

from __future__ import annotations

import click

from headrace.commands.running import read_settings, run_until_stopped
from headrace.relay.process import parts_of, run_relay
from headrace.resources import build_registry


@click.command(
    help="Carry jobs and events from the record to the belt. Several may run: one leads, the others stand by."
)
def relay() -> None:
    """Run until a signal."""
    settings = read_settings()
    registry = build_registry(settings)
    parts = parts_of(registry.tasks)
    run_until_stopped(lambda stop: run_relay(settings, stop, parts=parts, migrations=registry.migrations))
