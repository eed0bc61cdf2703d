"""The command line: `headrace …`.

Owns the table of commands. Each lives in a module of its own, which is imported when its command runs and not before: a
relay has no business with HTTP, nor with what the other commands bring along. A deployment that is wrong ends any
command with one line on standard error and exit code 2.
"""

from __future__ import annotations

import sys
from typing import Final

import click

from headrace.commands.lazy import LazyGroup
from headrace.errors import ConfigurationError, HeadraceError

_COMMANDS: Final = {
    "up": ("headrace.commands.up:up", "Run everything on this machine, with embedded stores"),
    "demo": ("headrace.commands.demo:demo", "Watch an order being confirmed, and what follows"),
    "migrate": ("headrace.commands.migrate:migrate", "Bring the database to the schema of this code"),
    "api": ("headrace.commands.api:api", "Serve HTTP"),
    "relay": ("headrace.commands.relay:relay", "Carry jobs and events from the record to the belt"),
    "consume": ("headrace.commands.consume:consume", "Run the subscriptions"),
    "jobs": ("headrace.commands.jobs:jobs", "List, show, explain, retry, cancel and run jobs"),
    "queues": ("headrace.commands.queues:queues", "List queues; pause, resume and limit them"),
    "events": ("headrace.commands.events:events", "Publish, show and follow events"),
    "subscriptions": ("headrace.commands.subscriptions:subscriptions", "List, show, pause and resume subscriptions"),
    "webhooks": ("headrace.commands.webhooks:webhooks", "Make, try and follow webhooks"),
    "check": ("headrace.commands.check:check", "Is everything under way still valid for this code?"),
    "settings": ("headrace.commands.settings:settings", "List the environment variables"),
    "keys": ("headrace.commands.keys:keys", "Make, list and revoke API keys"),
}
"""Every command: where it is, and what it does."""


cli: Final = click.version_option(package_name="headrace")(
    LazyGroup(
        "headrace",
        _COMMANDS,
        help="Everything that must happen after a request was answered: jobs, events and schedules.",
    )
)


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
