"""`headrace api`."""

from __future__ import annotations

import os

import click

from headrace.api.server import serve
from headrace.commands.running import run_until_stopped
from headrace.resources import build_registry
from headrace.settings import Settings


@click.command()
def api() -> None:
    """Serve the API."""
    settings = Settings.from_environment(os.environ)
    registry = build_registry(settings)
    run_until_stopped(lambda stop: serve(settings, registry, stop))
