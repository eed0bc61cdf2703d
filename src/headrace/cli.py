"""The command line: `headrace …`.

Owns which commands there are. Each lives in a module of `headrace.commands` that is imported when its command runs,
so that the relay does not carry the API's packages in its memory. A deployment that is wrong ends with one line that
says what to change, and exit code 2; never with a stack trace.
"""

from __future__ import annotations

import importlib
import sys
from typing import Final

import click

from headrace.errors import ConfigurationError

_CONFIGURATION: Final = 2

COMMANDS: Final = {
    "up": "headrace.commands.stack:up",
    "demo": "headrace.commands.stack:demo",
    "migrate": "headrace.commands.processes:migrate",
    "api": "headrace.commands.api:api",
    "relay": "headrace.commands.processes:relay",
    "consume": "headrace.commands.processes:consume",
    "settings": "headrace.commands.settings:settings",
    "keys": "headrace.commands.keys:keys",
}
"""Where each command is: module and attribute."""


class Commands(click.Group):
    """A group that imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which a newcomer needs them."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            message = f"{COMMANDS[cmd_name]} is not a command"
            raise TypeError(message)
        return command


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
        sys.exit(_CONFIGURATION)


if __name__ == "__main__":
    main()
