"""`headrace migrate`: the schema."""

from __future__ import annotations

import click

from headrace.commands.running import read_settings
from headrace.database.migrate import upgrade
from headrace.resources import build_registry


@click.command(help="Bring the database to the schema of this code and of the loaded applications.")
def migrate() -> None:
    """Run every missing migration; safe to call from several places at once."""
    settings = read_settings()
    upgrade(settings.database_url, build_registry(settings).migrations)
    click.echo("the schema fits")
