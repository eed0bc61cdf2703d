"""`headrace keys`: make, list and revoke API keys."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click
import msgspec
from rich.console import Console
from rich.table import Table

from headrace.clock import seconds_from_now
from headrace.database.ready import wait_until_ready
from headrace.database.record import Record, open_record
from headrace.errors import HeadraceError
from headrace.keys import Key, create_key, list_keys, revoke_key
from headrace.resources import build_registry
from headrace.settings import Settings

T = TypeVar("T")

_DAY_SECONDS = 86_400


@click.group()
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command()
@click.option("--name", required=True, help="Whose key it is.")
@click.option(
    "--scope", "scopes", multiple=True, required=True, help="Such as jobs:write, *:read or *; may be repeated."
)
@click.option(
    "--days", type=click.FloatRange(min=0, min_open=True), help="How long it is valid; for ever if not given."
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def create(name: str, scopes: tuple[str, ...], days: float | None, *, as_json: bool) -> None:
    """Make a key and show it: this once."""
    expires_at = None if days is None else seconds_from_now(days * _DAY_SECONDS)
    key, secret = _with_record(lambda record: create_key(record, name, scopes, expires_at=expires_at))
    if as_json:
        click.echo(msgspec.json.encode(msgspec.to_builtins(key) | {"key": secret}).decode())
        return
    click.echo(secret)
    click.echo(
        f"This is shown once. It opens {', '.join(key.scopes)}; revoke it with: headrace keys revoke {key.prefix}",
        err=True,
    )


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_(*, as_json: bool) -> None:
    """List every key, newest first; secrets are not on record."""
    found = _with_record(list_keys)
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
        return
    table = Table("name", "prefix", "scopes", "created", "state", "last used", box=None, header_style="bold")
    for key in found:
        used = f"{key.last_used_at:%Y-%m-%d %H:%M}" if key.last_used_at else "never"
        table.add_row(key.name, key.prefix, " ".join(key.scopes), f"{key.created_at:%Y-%m-%d %H:%M}", _state(key), used)
    Console().print(table)


@keys.command()
@click.argument("which")
def revoke(which: str) -> None:
    """Revoke a key, named by its id or prefix."""
    key = _with_record(lambda record: revoke_key(record, which))
    click.echo(f"The key of {key.name} ({key.prefix}) opens nothing any more.")


def _state(key: Key) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return f"until {key.expires_at:%Y-%m-%d}" if key.expires_at else "valid"


def _with_record(work: Callable[[Record], Awaitable[T]]) -> T:
    settings = Settings.from_environment(os.environ)
    migrations = build_registry(settings).migrations

    async def run() -> T:
        async with open_record(settings) as record:
            await wait_until_ready(record.engine, migrations)
            return await work(record)

    try:
        return asyncio.run(run())
    except HeadraceError as error:
        raise click.ClickException(str(error)) from error
