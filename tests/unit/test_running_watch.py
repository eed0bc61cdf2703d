"""Whom the watch on the loop accuses, look by look."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from headrace.database.record import open_record
from headrace.providers import Providers
from headrace.settings import Settings
from headrace.tasks.execution import Execution
from headrace.tasks.watch import LoopWatch


@pytest.fixture
async def watch() -> AsyncIterator[LoopWatch]:
    """A watch on the loop of the test, with a record that is away."""
    async with open_record(Settings(database_url="postgresql://postgres@127.0.0.1:1/none")) as record:
        opened = LoopWatch(Execution({}, record, Providers({})), record)
        opened.start()
        yield opened
        opened.stop()


async def test_block_is_named_with_its_stack_and_length(watch: LoopWatch) -> None:
    """What lies between two turns of the loop, once it is over; nobody's where no attempt is under way."""
    time.sleep(1.5)  # noqa: ASYNC251 - the fault that is watched for
    async with asyncio.timeout(5):
        while not watch._over:
            await asyncio.sleep(0.01)

    (block,) = watch._over
    assert (block.task, block.job_id) == ("", None)
    assert 1.3 < block.seconds < 3.0
    assert "time.sleep(1.5)" in block.stack


async def test_nobody_is_accused_when_the_loop_turns(watch: LoopWatch) -> None:
    """Work that awaits is no block, however long it takes."""
    for _ in range(15):
        await asyncio.sleep(0.1)

    assert watch._over == []
    assert watch._begun_at == 0.0
