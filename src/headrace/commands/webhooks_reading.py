"""`headrace webhooks list`, `show` and `deliveries`.

Owns what they print. They read the record as the API does, and their JSON is the API's.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

import click

from headrace.commands.operating import operate
from headrace.commands.shown import NOTHING, echo_facts, echo_json, echo_table, json_option, moment, one_line, seconds
from headrace.cursors import cursor_of, id_of
from headrace.database.record import Record
from headrace.jobs.limits import Rate
from headrace.webhooks.model import DeliveryState, Webhook, WebhookDelivery
from headrace.webhooks.queries import list_deliveries, list_webhooks, webhook_by_id

_COLUMNS: Final = ("WEBHOOK", "STATE", "CIRCUIT", "URL", "TYPES")
_DELIVERY: Final = ("DELIVERY", "EVENT", "STATE", "ATTEMPTS", "LAST STATUS", "TOOK", "NEXT ATTEMPT", "NOTE")
_LIMIT: Final = click.IntRange(1, 200)


@click.command("list", help="List the webhooks, the newest first.")
@click.option("--limit", type=_LIMIT, default=50, show_default=True, help="how many at most")
@click.option("--cursor", default=None, help="where the page before ended")
@json_option
def list_(limit: int, cursor: str | None, *, as_json: bool) -> None:
    """Print a page of webhooks."""
    found = operate(lambda record: _webhooks(record, limit + 1, id_of(cursor)))
    page = found[:limit]
    next_cursor = cursor_of(str(page[-1].id)) if len(found) > limit else None
    if as_json:
        echo_json({"items": page, "next_cursor": next_cursor})
        return
    rows = [(one.id, _state(one), one.circuit.state, one.url, " ".join(one.types)) for one in page]
    echo_table(_COLUMNS, rows, empty="no webhook: `headrace webhooks create URL --type TYPE` makes one")
    if next_cursor:
        click.echo(f"more: --cursor {next_cursor}", err=True)


@click.command(help="Show a webhook: what it is sent, how its endpoint answers, and why it is disabled where it is.")
@click.argument("webhook_id", type=click.UUID)
@json_option
def show(webhook_id: UUID, *, as_json: bool) -> None:
    """Print one webhook."""
    found = operate(lambda record: _webhook(record, webhook_id))
    if as_json:
        echo_json(found)
        return
    echo_webhook(found)


@click.command(help="List the deliveries of a webhook, the newest first, each with what its last call came to.")
@click.argument("webhook_id", type=click.UUID)
@click.option("--state", type=click.Choice([state.value for state in DeliveryState]), help="those in this state")
@click.option("--limit", type=_LIMIT, default=50, show_default=True, help="how many at most")
@click.option("--cursor", default=None, help="where the page before ended")
@json_option
def deliveries(webhook_id: UUID, state: str | None, limit: int, cursor: str | None, *, as_json: bool) -> None:
    """Print a page of deliveries."""
    chosen = None if state is None else DeliveryState(state)

    async def page_of(record: Record) -> list[WebhookDelivery]:
        async with record.engine.connect() as connection:
            await webhook_by_id(connection, webhook_id)
            return await list_deliveries(connection, webhook_id, limit=limit + 1, before=id_of(cursor), state=chosen)

    found = operate(page_of)
    page = found[:limit]
    next_cursor = cursor_of(str(page[-1].id)) if len(found) > limit else None
    if as_json:
        echo_json({"items": page, "next_cursor": next_cursor})
        return
    echo_table(_DELIVERY, map(_row, page), empty="nothing was sent to it yet")
    if next_cursor:
        click.echo(f"more: --cursor {next_cursor}", err=True)


def echo_webhook(webhook: Webhook) -> None:
    """Print a webhook for people."""
    circuit = webhook.circuit
    echo_facts(
        [
            ("webhook", webhook.id),
            ("url", webhook.url),
            ("types", " ".join(webhook.types)),
            ("filter", "" if bytes(webhook.filter) == b"null" else bytes(webhook.filter).decode()),
            ("description", webhook.description),
            ("rate", _rate(webhook.rate)),
            ("state", _state(webhook)),
            ("reason", webhook.disabled_reason),
            ("circuit", circuit.state),
            ("failures", circuit.failures or ""),
            ("failing since", "" if circuit.failing_since is None else moment(circuit.failing_since)),
            ("next try", "" if circuit.until is None else moment(circuit.until)),
            ("former secret", "" if webhook.former_secret_until is None else moment(webhook.former_secret_until)),
            ("created", moment(webhook.created_at)),
        ]
    )


async def _webhooks(record: Record, limit: int, before: UUID | None) -> list[Webhook]:
    async with record.engine.connect() as connection:
        return await list_webhooks(connection, limit=limit, before=before)


async def _webhook(record: Record, webhook_id: UUID) -> Webhook:
    async with record.engine.connect() as connection:
        return await webhook_by_id(connection, webhook_id)


def _state(webhook: Webhook) -> str:
    return "enabled" if webhook.enabled else f"disabled {moment(webhook.disabled_at)}"


def _rate(rate: Rate | None) -> str:
    return "" if rate is None else f"{rate.limit} calls in {rate.per_seconds:g} s"


def _row(delivery: WebhookDelivery) -> tuple[object, ...]:
    return (
        delivery.id,
        delivery.type or delivery.event_id,
        delivery.state,
        delivery.attempts,
        NOTHING if delivery.last_status is None else str(delivery.last_status),
        seconds(delivery.last_duration_seconds),
        moment(delivery.next_attempt_at),
        one_line(delivery.reason or delivery.last_error or ""),
    )
