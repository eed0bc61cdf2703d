"""Keys open what their scopes name, and nothing after they were revoked."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import text

from headrace.api.door import Door
from headrace.clock import now
from headrace.errors import InvalidInputError
from headrace.keys import create_key, list_keys, revoke_key
from headrace.settings import Settings
from tests.integration.api_road import KEY, open_api

ECHO = {"task": "diagnostics.echo", "args": {"value": 1}}


@pytest.fixture
async def api(database_url: str, redis_url: str) -> AsyncIterator[tuple[httpx.AsyncClient, Door]]:
    """A client of the API, and the parts behind it."""
    async with open_api(Settings(database_url=database_url, redis_url=redis_url, api_key=KEY)) as opened:
        yield opened


def bearing(key: str) -> dict[str, str]:
    """Return the header that shows a key."""
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic abc", "Bearer wrong", f"Bearer hr_{'0' * 12}_{'0' * 64}"]
)
async def test_request_is_refused_when_it_shows_no_valid_key(api: tuple[httpx.AsyncClient, Door], header: str) -> None:
    """Without a key, or with nobody's, the answer is 401 and names the scheme."""
    client, _ = api

    answer = await client.get("/v1/jobs", headers={"Authorization": header})

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs"])
async def test_path_is_open_when_it_is_public(api: tuple[httpx.AsyncClient, Door], path: str) -> None:
    """Health, metrics and documentation need no key, and carry a trace's id like everything."""
    client, _ = api

    answer = await client.get(path, headers={"Authorization": ""})

    assert answer.status_code == 200, answer.text
    assert len(answer.headers["trace-id"]) == 32


async def test_key_is_refused_when_it_has_no_name(api: tuple[httpx.AsyncClient, Door]) -> None:
    """A key says whose it is."""
    _, door = api

    with pytest.raises(InvalidInputError, match="needs a name"):
        await create_key(door.record, " ", ["*"])


@pytest.mark.parametrize(
    ("scopes", "expected"),
    [
        (["jobs:read"], [200, 403, 403]),
        (["jobs:write"], [403, 202, 403]),
        (["*:read"], [200, 403, 200]),
        (["*:write"], [403, 202, 403]),
        (["events:read"], [403, 403, 200]),
        (["*"], [200, 202, 200]),
    ],
)
async def test_key_opens_what_it_may_when_it_is_shown(
    api: tuple[httpx.AsyncClient, Door], scopes: list[str], expected: list[int]
) -> None:
    """A key opens the resources and verbs of its scopes; the rest is 403."""
    client, door = api
    _, key = await create_key(door.record, "trial", scopes)

    answers = [
        await client.get("/v1/jobs", headers=bearing(key)),
        await client.post("/v1/jobs", json=ECHO, headers=bearing(key)),
        await client.get("/v1/events", headers=bearing(key)),
    ]

    assert [answer.status_code for answer in answers] == expected


async def test_key_opens_nothing_when_it_was_revoked(api: tuple[httpx.AsyncClient, Door]) -> None:
    """A key that is in use stops within a second of its revocation."""
    client, door = api
    made, key = await create_key(door.record, "trial", ["*"])
    before = await client.get("/v1/jobs", headers=bearing(key))

    await revoke_key(door.record, made.prefix)
    revoked = time.monotonic()
    while (await client.get("/v1/jobs", headers=bearing(key))).status_code == 200:
        assert time.monotonic() - revoked < 1.0
        await asyncio.sleep(0.01)

    assert before.status_code == 200


async def test_key_opens_nothing_when_it_has_expired(api: tuple[httpx.AsyncClient, Door]) -> None:
    """An expired key is nobody's."""
    client, door = api
    _, key = await create_key(door.record, "trial", ["*"], expires_at=now() - timedelta(seconds=1))

    answer = await client.get("/v1/jobs", headers=bearing(key))

    assert answer.status_code == 401


async def test_secret_is_nowhere_when_a_key_is_on_record(api: tuple[httpx.AsyncClient, Door]) -> None:
    """The record holds a hash of the secret, the use of the key, and not the key."""
    client, door = api
    made, key = await create_key(door.record, "trial", ["jobs:read"])

    await client.get("/v1/jobs", headers=bearing(key))

    async with door.record.engine.connect() as connection:
        row = (await connection.execute(text("SELECT secret_hash, api_keys::text AS everything FROM api_keys"))).one()
    secret = key.split("_")[2]
    assert row.secret_hash == hashlib.sha256(secret.encode()).digest()
    assert secret not in row.everything
    assert (await list_keys(door.record))[0].last_used_at is not None
    assert made.last_used_at is None


@pytest.mark.parametrize("scopes", [[], ["jobs"], ["jobs:delete"], ["*:*"], ["Jobs:read"], [""]])
async def test_key_is_refused_when_a_scope_is_malformed(api: tuple[httpx.AsyncClient, Door], scopes: list[str]) -> None:
    """A key without a readable scope would open nothing, silently."""
    _, door = api

    with pytest.raises(InvalidInputError):
        await create_key(door.record, "trial", scopes)
