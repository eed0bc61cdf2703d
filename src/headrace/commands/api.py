"""`headrace api`: the door."""

from __future__ import annotations

import click

from headrace.api.process import STATEMENT_SECONDS, run_api
from headrace.commands.running import read_settings, run_until_stopped
from headrace.loops import Stop
from headrace.resources import build_registry, open_resources
from headrace.settings import Settings
from headrace.telemetry.logs import configure_logging
from headrace.telemetry.setup import configure


@click.command(help="Serve HTTP on HEADRACE_HOST and HEADRACE_PORT. Any number of these processes may run.")
def api() -> None:
    """Serve until a signal."""
    settings = read_settings()
    run_until_stopped(lambda stop: _serve(settings, stop))


async def _serve(settings: Settings, stop: Stop) -> None:
    configure_logging(settings, "api")
    telemetry = configure("api")
    try:
        registry = build_registry(settings)
        async with open_resources(settings, registry, statement_seconds=STATEMENT_SECONDS) as resources:
            await run_api(settings, resources.registry, resources.record, stop)
    finally:
        telemetry.shutdown()
