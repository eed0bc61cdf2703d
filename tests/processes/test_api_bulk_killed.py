"""The API is killed in the middle of a retry by filter: the repeat does the rest, and no job is moved twice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from tests.stacks import Stack, eventually, running_stack

JOBS = 30_000
_PUT = """
    INSERT INTO jobs (id, task, args, queue, state, attempt, max_attempts, finished_at, trace_id, traceparent)
    SELECT gen_random_uuid(), 'diagnostics.echo', '{"value": 1}', 'deep', 'dead', 1, 1, now(), '', ''
    FROM generate_series(1, $1::integer)
"""
_MOVED = "SELECT count(*) FROM jobs WHERE queue = 'deep' AND state = 'pending'"
_MOVED_ONCE = "SELECT count(*) FROM jobs WHERE queue = 'deep' AND cardinality(array_positions(moved_to, 'pending')) = 1"


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A running stack."""
    with running_stack(tmp_path / "stack") as running:
        yield running


def ask(stack: Stack, statement: str, *values: object) -> Any:  # noqa: ANN401 - whatever the statement finds
    """Ask the record."""

    async def asked() -> Any:  # noqa: ANN401 - whatever the statement finds
        connection = await asyncpg.connect(stack.where.postgres_url)
        try:
            return await connection.fetchval(statement, *values)
        finally:
            await connection.close()

    return asyncio.run(asked())


def retry(stack: Stack) -> int | None:
    """Retry all dead jobs of the queue under one key; return how many, None where the API died meanwhile."""
    with stack.client() as client, suppress(httpx.TransportError):
        answer = client.post("/v1/jobs/retry", json={"queue": "deep"}, headers={"Idempotency-Key": "the-same-key"})
        assert answer.status_code == httpx.codes.ACCEPTED, answer.text
        count: int = answer.json()["count"]
        return count
    return None


def test_repeat_does_the_rest_when_the_api_dies_in_the_middle(stack: Stack) -> None:
    """What was moved before the kill stays moved; the repeat moves and counts the others, each once."""
    ask(stack, "INSERT INTO queues (name, paused) VALUES ('deep', true)")
    ask(stack, _PUT, JOBS)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(retry, stack)
        eventually(lambda: ask(stack, _MOVED) > 0, within_seconds=20, told=stack.told)
        os.kill(stack.where.processes["api"], signal.SIGKILL)
        assert first.result(timeout=30) is None
    eventually(stack.is_healthy, within_seconds=40, told=stack.told)
    before = ask(stack, _MOVED)

    count = retry(stack)

    assert 0 < before < JOBS
    assert count == JOBS - before
    assert ask(stack, _MOVED) == ask(stack, _MOVED_ONCE) == JOBS
    assert retry(stack) == count
