"""What the tests of webhooks run on: an application with one event, its API, and the clock of `inline`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec

from headrace.application import Application
from headrace.events.registry import event
from headrace.settings import Settings
from headrace.testing.http import open_client
from headrace.testing.inline import Inline, inline
from headrace.testing.stores import Stores
from headrace.webhooks.secrets import new_key

NOON = datetime(2031, 5, 1, 12, 0, tzinfo=UTC)
HOUR, DAY = 3600.0, 86_400.0


@event("hooks.thing.happened", subject="thing")
class Happened(msgspec.Struct, frozen=True):
    """Something happened to a thing."""

    thing: str
    count: int = 1


@event("hooks.thing.forgotten", subject="thing")
class ForgottenThing(msgspec.Struct, frozen=True):
    """A thing was forgotten."""

    thing: str


application = Application(name="hooks", events=(Happened, ForgottenThing))


def settings(**changes: Any) -> Settings:  # noqa: ANN401 - fields of Settings
    """Return settings with a key for secrets, under which webhooks may call loopback."""
    chosen: dict[str, Any] = {"webhook_allow_private": True, "secret_keys": new_key(), "log_level": "error"}
    return Settings(**chosen | {"lease_seconds": 1.0, "shutdown_seconds": 5.0} | changes)


@dataclass(frozen=True, slots=True)
class World:
    """A Headrace by a virtual clock, and its API."""

    headrace: Inline
    client: httpx.AsyncClient

    async def make(self, url: str, **changes: object) -> dict[str, Any]:
        """Make a webhook and return it, with its secret."""
        answer = await self.client.post("/v1/webhooks", json={"url": url, "types": ["hooks.*"]} | changes)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    async def publish(self, *things: msgspec.Struct) -> None:
        """Publish events, and do what is due."""
        for thing in things:
            await self.headrace.publish(thing)
        await self.headrace.drain()

    async def webhook(self, made: dict[str, Any]) -> dict[str, Any]:
        """Return a webhook as the API shows it."""
        shown: dict[str, Any] = (await self.client.get(f"/v1/webhooks/{made['id']}")).json()
        return shown

    async def deliveries(self, made: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the deliveries of a webhook, the newest first."""
        answer = await self.client.get(f"/v1/webhooks/{made['id']}/deliveries", params={"limit": 200})
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    async def patch(self, made: dict[str, Any], **changes: object) -> dict[str, Any]:
        """Change a webhook."""
        answer = await self.client.patch(f"/v1/webhooks/{made['id']}", json=changes)
        assert answer.status_code == 200, answer.text
        changed: dict[str, Any] = answer.json()
        return changed


@asynccontextmanager
async def world(stores: Stores, **changes: Any) -> AsyncIterator[World]:  # noqa: ANN401 - fields of Settings
    """Open a Headrace with the application of these tests."""
    async with (
        inline(application, stores, at=NOON, settings=settings(**changes)) as headrace,
        open_client(headrace) as client,
    ):
        yield World(headrace, client)
