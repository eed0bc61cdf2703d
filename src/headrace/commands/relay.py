"""`headrace relay`: from the record to the belt."""

from __future__ import annotations

import click

from headrace.commands.running import read_settings, run_until_stopped
from headrace.relay.process import run_relay
from headrace.resources import build_registry


@click.command(
    help="Carry jobs and events from the record to the belt. Several may run: one leads, the others stand by."
)
def relay() -> None:
    """Run until a signal."""
    settings = read_settings()
    migrations = build_registry(settings).migrations
    run_until_stopped(lambda stop: run_relay(settings, stop, migrations=migrations))
