"""The API is killed between its commit and the answer: the repeat gets the first answer, and there is one job."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from tests.stacks import Stack, eventually, running_stack

KEY = "the-same-key"
BODY = json.dumps({"task": "diagnostics.echo", "args": {"value": "once"}})


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A running stack."""
    with running_stack(tmp_path / "stack") as running:
        yield running


def jobs_on_record(stack: Stack) -> int:
    """Return how many jobs PostgreSQL has committed."""

    async def count() -> int:
        connection = await asyncpg.connect(stack.where.postgres_url)
        try:
            found: int = await connection.fetchval("SELECT count(*) FROM jobs WHERE task = 'diagnostics.echo'")
        finally:
            await connection.close()
        return found

    return asyncio.run(count())


def send_without_reading(stack: Stack) -> socket.socket:
    """Send the request and leave its answer unread."""
    where = urlsplit(stack.where.api_url)
    connection = socket.create_connection((str(where.hostname), int(where.port or 0)), timeout=10)
    lines = (
        "POST /v1/jobs HTTP/1.1",
        f"Host: {where.netloc}",
        f"Authorization: Bearer {stack.key}",
        "Content-Type: application/json",
        f"Content-Length: {len(BODY)}",
        f"Idempotency-Key: {KEY}",
    )
    connection.sendall(("\r\n".join(lines) + "\r\n\r\n" + BODY).encode())
    return connection


def test_repeat_gets_the_first_answer_when_the_api_dies_after_its_commit(stack: Stack) -> None:
    """The client never saw an answer; its repeat is a replay, and one job is on record."""
    with send_without_reading(stack):
        eventually(lambda: jobs_on_record(stack) == 1, within_seconds=20, told=stack.told)
        os.kill(stack.where.processes["api"], signal.SIGKILL)
    eventually(stack.is_healthy, within_seconds=40, told=stack.told)

    with stack.client() as client:
        repeat = client.post(
            "/v1/jobs", content=BODY, headers={"Idempotency-Key": KEY, "Content-Type": "application/json"}
        )
        assert repeat.status_code == httpx.codes.ACCEPTED, repeat.text
        job = client.get(f"/v1/jobs/{repeat.json()['id']}", params={"wait_seconds": 20}).json()

    assert repeat.headers["Idempotent-Replay"] == "true"
    assert job["state"] == "succeeded"
    assert jobs_on_record(stack) == 1
