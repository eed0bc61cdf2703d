"""`headrace migrate`, `headrace relay` and `headrace consume`.

Owns nothing but the start: settings from the environment, the applications, a stop flag that SIGTERM and SIGINT set.
"""

from __future__ import annotations

import os

import click

from headrace.commands.running import run_until_stopped
from headrace.database.migrate import upgrade
from headrace.relay.process import parts_of, run_relay
from headrace.resources import build_registry
from headrace.settings import Settings
from headrace.subscribers.process import run_consume


@click.command()
def migrate() -> None:
    """Bring the database to the schema of this version."""
    settings = Settings.from_environment(os.environ)
    upgrade(settings.database_url, build_registry(settings).migrations)
    click.echo("The database fits this version of Headrace.")


@click.command()
def relay() -> None:
    """Carry events and due jobs from the record to the belt."""
    settings = Settings.from_environment(os.environ)
    registry = build_registry(settings)
    parts = parts_of(registry.tasks)
    run_until_stopped(lambda stop: run_relay(settings, stop, parts=parts, migrations=registry.migrations))


@click.command()
def consume() -> None:
    """Run the subscriptions: all, or those that HEADRACE_SUBSCRIPTIONS names."""
    settings = Settings.from_environment(os.environ)
    registry = build_registry(settings)
    run_until_stopped(lambda stop: run_consume(settings, registry, stop))
