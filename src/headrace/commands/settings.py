"""`headrace settings`."""

from __future__ import annotations

import click
import msgspec
from rich.console import Console
from rich.table import Table

from headrace.settings import variables


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def settings(*, as_json: bool) -> None:
    """List every setting with its default and meaning."""
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(variables()), indent=2))
        return
    table = Table("variable", "default", "meaning", box=None, header_style="bold")
    for variable in variables():
        table.add_row(variable.name, variable.default, variable.meaning)
    Console().print(table)
