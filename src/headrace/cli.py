"""The command line: `headrace …`.

Owns the table of commands. Each lives in a module of its own, which is imported when its command runs and not before: a
relay has no business with HTTP, nor with what the other commands bring along. A deployment that is wrong ends any
command with one line on standard error and exit code 2.
"""

from __future__ import annotations

import importlib
import sys
from typing import Final

import click

from headrace.errors import ConfigurationError, HeadraceError

_COMMANDS: Final = {
    "up": ("headrace.commands.up:up", "Run everything on this machine, with embedded stores"),
    "demo": ("headrace.commands.demo:demo", "Watch an order being confirmed, and what follows"),
    "migrate": ("headrace.commands.migrate:migrate", "Bring the database to the schema of this code"),
    "api": ("headrace.commands.api:api", "Serve HTTP"),
    "relay": ("headrace.commands.relay:relay", "Carry jobs and events from the record to the belt"),
    "consume": ("headrace.commands.consume:consume", "Run the subscriptions"),
    "settings": ("headrace.commands.settings:settings", "List the environment variables"),
    "keys": ("headrace.commands.keys:keys", "Make, list and revoke API keys"),
}
"""Every command: where it is, and what it does."""


class Commands(click.Group):
    """A group whose commands are imported when they are called for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing any."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, meaning) for name, (_, meaning) in _COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="headrace")
def cli() -> None:
    """Everything that must happen after a request was answered: jobs, events and schedules."""


def main() -> None:
    """Run the command line."""
    try:
        cli()
    except ConfigurationError as error:
        click.echo(f"headrace: {error}", err=True)
        sys.exit(2)
    except HeadraceError as error:
        click.echo(f"headrace: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
