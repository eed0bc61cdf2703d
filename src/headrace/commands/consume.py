"""`headrace consume`: the subscriptions."""

from __future__ import annotations

import click
import msgspec

from headrace.commands.running import read_settings, run_until_stopped
from headrace.resources import build_registry
from headrace.subscribers.process import run_consume


@click.command(help="Run the named subscriptions, or all of them. Several processes share the lanes.")
@click.argument("subscriptions", nargs=-1)
def consume(subscriptions: tuple[str, ...]) -> None:
    """Run until a signal."""
    settings = read_settings()
    if subscriptions:
        settings = msgspec.structs.replace(settings, subscriptions=",".join(subscriptions))
    registry = build_registry(settings)
    run_until_stopped(lambda stop: run_consume(settings, registry, stop))
