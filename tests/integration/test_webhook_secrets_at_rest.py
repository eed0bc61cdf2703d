"""Secrets of webhooks stand in clear nowhere: not on record, not in a log, not in a span."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from sqlalchemy import text
from standardwebhooks import Webhook as Receiver
from structlog.testing import capture_logs

from headrace.cron.upkeep import prune
from headrace.database.record import Record
from headrace.testing.stores import Stores, open_stores
from headrace.webhooks.queries import sealed_secrets
from headrace.webhooks.renewal import renew_secrets
from headrace.webhooks.secrets import SecretBox, new_key
from tests.endpoints import always, endpoint
from tests.integration.webhook_world import Happened, World, settings, world
from tests.kept_spans import keep_spans
from tests.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_TABLES = text("""
    SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
""")


_SEALED = text("SELECT secret FROM webhooks UNION ALL SELECT secret FROM webhook_former_secrets")


@pytest.fixture
def stores(postgres_server: PostgresServer, redis_url: str) -> Iterator[Stores]:
    """The run's own servers."""
    with open_stores(database_url=postgres_server.url_of("postgres"), redis_url=redis_url) as opened:
        yield opened


@asynccontextmanager
async def keyed(stores: Stores, key: str) -> AsyncIterator[World]:
    """Open a world with this key."""
    async with world(stores, secret_keys=key) as opened:
        yield opened


async def dumped(record: Record) -> str:
    """Return everything that the database holds, as a dump of it would show it."""
    async with record.engine.connect() as connection:
        tables = list((await connection.execute(_TABLES)).scalars())
        rows = [
            line
            for table in tables
            for line in (await connection.execute(text(f"SELECT CAST(t AS text) FROM {table} t"))).scalars()  # noqa: S608 - names of the database's own
        ]
    return "\n".join(rows)


def forms(secret: str) -> list[str]:
    """Return the ways in which a secret could stand somewhere: as shown, and as bytes that PostgreSQL prints."""
    encoded = secret.removeprefix("whsec_")
    return [encoded, base64.b64decode(encoded).hex(), secret.encode().hex(), encoded.encode().hex()]


async def test_no_secret_is_in_clear_when_a_webhook_has_been_used(stores: Stores) -> None:
    """Made and rotated under an Idempotency-Key, called, failed, shown: the record, logs and spans hold none of it."""
    spans = keep_spans()
    spans.clear()
    with capture_logs() as logs:
        async with keyed(stores, new_key()) as opened, endpoint() as shop:
            made = await opened.client.post(
                "/v1/webhooks", json={"url": shop.url, "types": ["hooks.*"]}, headers={"Idempotency-Key": "make"}
            )
            url = f"/v1/webhooks/{made.json()['id']}"
            rotated = await opened.client.post(f"{url}/rotate-secret", headers={"Idempotency-Key": "rotate"})
            await opened.client.post(f"{url}/test")
            await opened.publish(Happened("a"))
            shop.answer = always(500)
            await opened.publish(Happened("b"))
            record = await dumped(opened.headrace.record)

    secrets = [answer.json()["secret"] for answer in (made, rotated)]
    told = record + repr(logs) + "".join(span.to_json() for span in spans.get_finished_spans())
    assert made.json()["id"] in record
    assert len(shop.calls) == 3
    assert [form for secret in secrets for form in forms(secret) if form in told] == []
    for call in shop.calls:
        moment = datetime.fromtimestamp(int(call.headers["webhook-timestamp"]), UTC)  # of the virtual clock
        expected = {Receiver(secret).sign(call.id, moment, call.body.decode()) for secret in secrets}
        assert set(call.headers["webhook-signature"].split(" ")) == expected


async def test_secrets_follow_the_key_when_it_is_changed(stores: Stores) -> None:
    """The clock writes them again under the new key; then the old one is not needed, and they are the same secrets."""
    old, new = new_key(), new_key()
    async with keyed(stores, old) as opened:
        made = await opened.make("http://127.0.0.1:9/hook")
        rotated = (await opened.client.post(f"/v1/webhooks/{made['id']}/rotate-secret")).json()
        record = opened.headrace.record

        await prune(record, settings(secret_keys=f"{new},{old}"))

        async with record.engine.connect() as connection:
            sealed = list((await connection.execute(_SEALED)).scalars())
    box = SecretBox.of(settings(secret_keys=new))
    assert [box.open(one).secret for one in sealed] == [rotated["secret"], made["secret"]]


async def test_every_former_secret_follows_the_key_when_several_are_valid(stores: Stores) -> None:
    """Three secrets of one webhook, all written again under the new key, and counted as one webhook."""
    old, new = new_key(), new_key()
    async with keyed(stores, old) as opened:
        made = await opened.make("http://127.0.0.1:9/hook")
        url = f"/v1/webhooks/{made['id']}/rotate-secret"
        shown = [made] + [(await opened.client.post(url)).json() for _ in range(2)]
        record = opened.headrace.record

        renewed = await renew_secrets(record, SecretBox.of(settings(secret_keys=f"{new},{old}")))

        async with record.engine.connect() as connection:
            _, sealed = await sealed_secrets(connection, UUID(made["id"]))
    box = SecretBox.of(settings(secret_keys=new))
    assert renewed == 1
    assert [box.open(one).secret for one in sealed] == [one["secret"] for one in reversed(shown)]


async def test_secret_is_kept_and_told_of_when_no_key_opens_it(stores: Stores) -> None:
    """Nothing is lost: with the old key back it is what it was."""
    old = new_key()
    async with keyed(stores, old) as opened:
        made = await opened.make("http://127.0.0.1:9/hook")
        record = opened.headrace.record

        with capture_logs() as logs:
            await prune(record, settings(secret_keys=new_key()))

        async with record.engine.connect() as connection:
            sealed = (await connection.execute(text("SELECT secret FROM webhooks"))).scalar_one()
    assert [log["webhook_id"] for log in logs if log["event"] == "secret_unreadable"] == [made["id"]]
    assert SecretBox.of(settings(secret_keys=old)).open(sealed).secret == made["secret"]


async def test_former_secret_leaves_the_record_when_its_day_is_over(stores: Stores) -> None:
    """What nobody signs with any more is not kept."""
    async with keyed(stores, new_key()) as opened:
        made = await opened.make("http://127.0.0.1:9/hook")
        await opened.client.post(f"/v1/webhooks/{made['id']}/rotate-secret")
        record = opened.headrace.record
        async with record.engine.begin() as connection:
            await connection.execute(text("UPDATE webhook_former_secrets SET valid_until = now()"))

        await prune(record, settings())

        async with record.engine.connect() as connection:
            former = (await connection.execute(text("SELECT secret FROM webhook_former_secrets"))).all()
    assert former == []
