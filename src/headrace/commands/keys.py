"""`headrace keys`: who may use the API; and the key of secrets at rest."""

from __future__ import annotations

from datetime import timedelta

import click
import msgspec

from headrace.clock import now
from headrace.commands.operating import operate
from headrace.keys import Key, create_key, list_keys, revoke_key
from headrace.webhooks.secrets import new_key


@click.group(help="Make, list and revoke API keys.")
def keys() -> None:
    """Hold the commands below."""


@keys.command(help="Make a key and print it; it is shown this once.")
@click.option("--name", required=True, help="whose it is, or what for")
@click.option(
    "--scope", "scopes", multiple=True, required=True, help="such as jobs:write, *:read or *; may be repeated"
)
@click.option("--expires-in-days", type=click.FloatRange(min=0, min_open=True), default=None, help="never by default")
@click.option("--json", "as_json", is_flag=True, help="as JSON")
def create(name: str, scopes: tuple[str, ...], expires_in_days: float | None, *, as_json: bool) -> None:
    """Make a key."""
    expires_at = now() + timedelta(days=expires_in_days) if expires_in_days else None
    key, text = operate(lambda record: create_key(record, name, scopes, expires_at=expires_at))
    if as_json:
        click.echo(msgspec.json.encode(msgspec.structs.asdict(key) | {"key": text}))
    else:
        click.echo(text)


@keys.command("list", help="List the keys, newest first.")
@click.option("--json", "as_json", is_flag=True, help="as JSON")
def list_(*, as_json: bool) -> None:
    """Print the keys without their secrets."""
    found = operate(list_keys)
    if as_json:
        click.echo(msgspec.json.encode({"items": found}))
        return
    for key in found:
        click.echo(f"{key.prefix}  {_state(key):<8}  {key.name}  {' '.join(key.scopes)}")


@keys.command(help="Revoke a key, named by its prefix or id; it opens nothing any more within a second.")
@click.argument("which")
def revoke(which: str) -> None:
    """Revoke a key."""
    key = operate(lambda record: revoke_key(record, which))
    click.echo(f"{key.prefix} of {key.name} is revoked")


@keys.command(help="Make a key for HEADRACE_SECRET_KEYS and print it: it encrypts the secrets of webhooks on record.")
def secret() -> None:
    """Make a key that no database knows."""
    click.echo(new_key())


def _state(key: Key) -> str:
    if key.revoked_at:
        return "revoked"
    return "expired" if key.expires_at and key.expires_at <= now() else "valid"
