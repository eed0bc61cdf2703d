"""`headrace settings`: which environment variables there are."""

from __future__ import annotations

import click
import msgspec

from headrace.settings import variables


@click.command(help="List every HEADRACE_* variable with its default and its meaning. OTEL_* are OpenTelemetry's own.")
@click.option("--json", "as_json", is_flag=True, help="as JSON")
def settings(*, as_json: bool) -> None:
    """Print the table."""
    found = variables()
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode({"items": found}), indent=2))
        return
    for variable in found:
        click.echo(f"{variable.name}={variable.default}\n    {variable.meaning}")
