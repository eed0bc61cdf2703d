"""Workers and consumers are killed among webhooks: every event reaches its webhook, and is known by its id."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from headrace.resources import registry_of
from headrace.subscribers.checkpoints import register
from headrace.transaction import transaction
from headrace.webhooks.book import make
from headrace.webhooks.model import NewWebhook
from headrace.webhooks.secrets import SecretBox, new_key
from headrace.webhooks.signing import new_secret
from tests.endpoints import Call, Reply, always, endpoint
from tests.integration.webhook_world import Happened, application
from tests.job_processes import World, open_world, settings_of

pytestmark = pytest.mark.processes


@pytest.fixture
async def world(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """Processes with a lease of one second, which may call loopback."""
    settings = msgspec.structs.replace(
        settings_of(database_url, redis_url),
        applications="tests.trial:application,tests.integration.webhook_world:application",
        webhook_allow_private=True,
        secret_keys=new_key(),
    )
    async with open_world(settings, tmp_path) as opened:
        await register(opened.record.engine, registry_of([application]).subscriptions.values())
        yield opened


async def hook(world: World, url: str) -> UUID:
    """Make a webhook for everything."""
    sealed = SecretBox.of(world.settings).seal(new_secret())
    async with transaction(world.record) as tx:
        return await make(tx, NewWebhook(url=url, types=["*"]), sealed=sealed, by="the test")


async def publish(world: World, count: int) -> list[UUID]:
    """Publish events in one transaction."""
    async with transaction(world.record) as tx:
        return [await tx.publish(Happened(f"thing {number}")) for number in range(count)]


async def test_call_is_made_again_with_its_id_when_the_worker_dies_in_the_middle(world: World) -> None:
    """SIGKILL while the endpoint thinks: the lost attempt is on record, the next one bears the same webhook-id."""
    async with endpoint(lambda _call: Reply(after_seconds=30.0)) as shop:
        await hook(world, shop.url)
        world.relay()
        world.consume()
        world.worker()
        (pid,) = await world.registered("worker")
        (event_id,) = await publish(world, 1)
        await world.eventually(partial(_was_called, shop.calls, 1))

        shop.answer = always()
        os.kill(pid, signal.SIGKILL)
        await world.eventually(partial(_is_sent, world))

        lost = await world.rows("SELECT attempt, outcome FROM job_attempts")
        log = await world.rows("SELECT attempt, status FROM webhook_attempts")
        assert shop.ids == [str(event_id)] * 2
        assert shop.calls[0].body == shop.calls[1].body
        assert [tuple(row) for row in lost] == [(1, "lost")]
        assert [tuple(row) for row in log] == [(2, 200)]


async def test_each_event_becomes_one_delivery_when_consumers_die_among_them(world: World) -> None:
    """SIGKILL of the consumer again and again while it fans out: each event is one delivery for each webhook."""
    async with endpoint() as shop:
        hooks = [await hook(world, f"{shop.url}/{number}") for number in range(3)]
        world.relay()
        for turn in range(2):
            world.consume()
            (pid,) = await world.registered("consume")
            await publish(world, 300)
            await world.eventually(partial(_made, world, turn * 900 + 1))
            os.kill(pid, signal.SIGKILL)
            await world.eventually(partial(_nobody, world))
        world.consume()
        await world.eventually(partial(_made, world, 3 * 600))

        rows = await world.rows("SELECT webhook_id, event_id, count(*) FROM webhook_deliveries GROUP BY 1, 2")
        assert len(rows) == 3 * 600
        assert {row[2] for row in rows} == {1}
        assert Counter(row[0] for row in rows) == dict.fromkeys(hooks, 600)


async def _was_called(calls: list[Call], count: int) -> bool:
    return len(calls) >= count


async def _is_sent(world: World) -> bool:
    return await world.any_row("SELECT 1 FROM jobs WHERE task = 'headrace.webhook' AND state = 'succeeded'")


async def _nobody(world: World) -> bool:
    return not await world.pids("consume")


async def _made(world: World, count: int) -> bool:
    rows = await world.rows("SELECT count(*) FROM webhook_deliveries")
    return bool(rows[0][0] >= count)
