"""`headrace webhooks create`, `delete`, `enable`, `disable`, `rotate-secret`, `test` and `resend`.

Owns what they do and print; each does what the route of the API does. A secret is printed once, when it is made. `test`
exits with 1 where the endpoint did not take the event.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import click
import msgspec

from headrace.commands.operating import operate, operator_name, operator_settings
from headrace.commands.shown import echo_json, json_option, seconds
from headrace.commands.webhooks_reading import echo_webhook
from headrace.database.record import Record
from headrace.errors import InvalidInputError
from headrace.jobs.limits import Rate
from headrace.resources import build_registry
from headrace.transaction import transaction
from headrace.webhooks import book
from headrace.webhooks.calling import Caller, open_caller
from headrace.webhooks.deliveries import send_again
from headrace.webhooks.holding import follow_switch, give_up
from headrace.webhooks.model import NewWebhook, Webhook, WebhookChanges, WebhookDelivery, WebhookMade, WebhookTested
from headrace.webhooks.queries import delivery_by_id, webhook_by_id
from headrace.webhooks.rotation import rotate
from headrace.webhooks.signing import new_secret
from headrace.webhooks.trying import send_test

T = TypeVar("T")


@click.command(help="Make a webhook: events of these types are sent to the URL. Its secret is printed, this once.")
@click.argument("url")
@click.option("--type", "types", multiple=True, required=True, help="a type or a pattern such as orders.*; repeatable")
@click.option("--filter", "filter_", default=None, help="which events, by their data, as JSON")
@click.option("--description", default="", help="for people")
@click.option("--rate", default=None, metavar="N/SECONDS", help="calls within any stretch of that many seconds, 100/60")
@json_option
def create(  # noqa: PLR0913 - one argument for each field
    url: str, types: tuple[str, ...], filter_: str | None, description: str, rate: str | None, *, as_json: bool
) -> None:
    """Make a webhook."""
    wanted = _wanted(
        {"url": url, "types": types, "description": description, "filter": _json(filter_), "rate": _rate(rate)}
    )
    book.require_possible(wanted.types, frozenset(build_registry(operator_settings()).events))
    made = _calling(lambda record, caller: _create(record, caller, wanted))
    if as_json:
        echo_json(made)
        return
    echo_webhook(made)
    click.echo(f"secret: {made.secret}")


@click.command(help="Delete a webhook; its unfinished deliveries end as cancelled.")
@click.argument("webhook_id", type=click.UUID)
def delete(webhook_id: UUID) -> None:
    """Delete a webhook."""
    operate(lambda record: _delete(record, webhook_id))
    click.echo(f"the webhook {webhook_id} is deleted")


@click.command(help="Send events to a webhook again, from now on, and what was cancelled when it was disabled.")
@click.argument("webhook_id", type=click.UUID)
@json_option
def enable(webhook_id: UUID, *, as_json: bool) -> None:
    """Enable a webhook."""
    _shown(operate(lambda record: _switch(record, webhook_id, enabled=True)), as_json=as_json)


@click.command(help="Send nothing more to a webhook; its unfinished deliveries are cancelled until it is enabled.")
@click.argument("webhook_id", type=click.UUID)
@json_option
def disable(webhook_id: UUID, *, as_json: bool) -> None:
    """Disable a webhook."""
    _shown(operate(lambda record: _switch(record, webhook_id, enabled=False)), as_json=as_json)


@click.command("rotate-secret", help="Make another secret and print it, this once; the former one is valid for 24 h.")
@click.argument("webhook_id", type=click.UUID)
@json_option
def rotate_secret(webhook_id: UUID, *, as_json: bool) -> None:
    """Give a webhook another secret."""
    made = _calling(lambda record, caller: _rotate(record, caller, webhook_id))
    if as_json:
        echo_json(made)
    else:
        click.echo(made.secret)


@click.command(help="Send a signed test event at once, also to a disabled webhook, and tell what was answered.")
@click.argument("webhook_id", type=click.UUID)
@json_option
def test(webhook_id: UUID, *, as_json: bool) -> None:
    """Try a webhook."""
    told: WebhookTested = _calling(lambda record, caller: send_test(record, caller, webhook_id))
    if as_json:
        echo_json(told)
    else:
        click.echo(f"{told.error or f'answered {told.status}'} after {seconds(told.duration_seconds)}")
    sys.exit(0 if told.ok else 1)


@click.command(help="Send a delivery again, now, with the same webhook-id.")
@click.argument("delivery_id", type=click.UUID)
@json_option
def resend(delivery_id: UUID, *, as_json: bool) -> None:
    """Send a delivery again."""
    sent = operate(lambda record: _resend(record, delivery_id))
    if as_json:
        echo_json(sent)
    else:
        click.echo(f"the delivery {sent.id} is {sent.state}")


def _calling(work: Callable[[Record, Caller], Awaitable[T]]) -> T:
    """Do work with what calls webhooks."""

    async def called(record: Record) -> T:
        async with open_caller(operator_settings()) as caller:
            return await work(record, caller)

    return operate(called)


async def _create(record: Record, caller: Caller, wanted: NewWebhook) -> WebhookMade:
    await caller.check(wanted.url)
    secret = new_secret()
    async with transaction(record) as tx:
        webhook_id = await book.make(tx, wanted, sealed=caller.seal(secret), by=operator_name())
        made = await webhook_by_id(tx.connection, webhook_id)
    return WebhookMade(**msgspec.structs.asdict(made), secret=secret)


async def _delete(record: Record, webhook_id: UUID) -> None:
    async with transaction(record) as tx:
        await book.delete(tx, webhook_id)
    await give_up(partial(transaction, record), webhook_id, "the webhook was deleted", held=None)


async def _switch(record: Record, webhook_id: UUID, *, enabled: bool) -> Webhook:
    async with transaction(record) as tx:
        switched = await book.change(tx, webhook_id, WebhookChanges(enabled=enabled), by=operator_name())
    if switched is not None:
        await follow_switch(partial(transaction, record), webhook_id, enabled=enabled, by=operator_name())
    async with record.engine.connect() as connection:
        return await webhook_by_id(connection, webhook_id)


async def _rotate(record: Record, caller: Caller, webhook_id: UUID) -> WebhookMade:
    secret = new_secret()
    async with transaction(record) as tx:
        await rotate(tx, webhook_id, sealed=caller.seal(secret))
        webhook = await webhook_by_id(tx.connection, webhook_id)
    return WebhookMade(**msgspec.structs.asdict(webhook), secret=secret)


async def _resend(record: Record, delivery_id: UUID) -> WebhookDelivery:
    async with transaction(record) as tx:
        return await delivery_by_id(tx.connection, await send_again(tx, delivery_id))


def _shown(webhook: Webhook, *, as_json: bool) -> None:
    if as_json:
        echo_json(webhook)
    else:
        click.echo(f"the webhook {webhook.id} is {'enabled' if webhook.enabled else 'disabled'}")


def _wanted(given: dict[str, object]) -> NewWebhook:
    try:
        return msgspec.convert(given, NewWebhook)
    except msgspec.ValidationError as error:
        raise InvalidInputError(str(error)) from error


def _json(written: str | None) -> Any:  # noqa: ANN401 - any JSON
    try:
        return None if written is None else msgspec.json.decode(written)
    except msgspec.DecodeError as error:
        raise click.BadParameter(str(error), param_hint="--filter") from error


def _rate(written: str | None) -> Rate | None:
    if written is None:
        return None
    count, _, per_seconds = written.partition("/")
    try:
        return msgspec.convert({"limit": int(count), "per_seconds": float(per_seconds)}, Rate)
    except ValueError as error:
        message = "give a count and seconds, as 100/60: 1 to 1,000,000 calls in more than 0 seconds, a year at most"
        raise click.BadParameter(message, param_hint="--rate") from error
