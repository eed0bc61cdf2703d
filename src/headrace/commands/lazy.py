"""Groups of commands that are imported when one of them is called for.

Owns `LazyGroup`: a table says where each command is and what it does, so that a help page costs no import of a station,
and a command only those of its own. An argument that is no text is a usage error before any of them runs. Never import
a command to show its line of help.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Final

import click

Table = Mapping[str, tuple[str, str]]
"""The commands by name: where each is, as `module:attribute`, and what it does."""


_HELP: Final = ("-h", "--help")
_SHOWN: Final = 20
"""Characters on both sides of what is no text."""


def _require_text(argument: str) -> None:
    """Refuse bytes that are no text where this machine expects it: neither JSON nor the record can hold them.

    Raises:
        click.UsageError: showing them.

    """
    try:
        argument.encode()
    except UnicodeEncodeError as error:
        start = max(0, error.start - _SHOWN)
        shown = repr(argument[start : error.end + _SHOWN].encode(errors="surrogateescape"))[1:]
        message = f"an argument is not UTF-8 text: write {shown} as UTF-8"
        raise click.UsageError(message) from error


class LazyGroup(click.Group):
    """A group over a table of commands; `default` names the one that runs where none is named."""

    def __init__(self, name: str, table: Table, *, help: str, default: str | None = None) -> None:  # noqa: A002 - click's own word
        super().__init__(name, help=help, context_settings={"help_option_names": list(_HELP)})
        self._table = table
        self._default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Let options without a command be those of the default one; refuse what is no text, for all commands."""
        for one in args:
            _require_text(one)
        if self._default is not None and (not args or (args[0].startswith("-") and args[0] not in _HELP)):
            args = [self._default, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        del ctx
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        del ctx
        if cmd_name not in self._table:
            return None
        module, _, attribute = self._table[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing any."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, meaning) for name, (_, meaning) in self._table.items()])
