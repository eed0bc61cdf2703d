"""Five hundred listeners on one API process: what they take, and how soon one of them is shown its event.

`python -m bench listeners` measures ten thousand.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import psutil
import pytest

from bench.listeners import APPLICATIONS, KEY, latency, opened_tails
from headrace.database.record import open_record
from headrace.settings import Settings
from headrace.stack.ports import free_port
from headrace.stack.program import Program
from tests.lanes import eventually, relaying
from tests.servers import running

pytestmark = pytest.mark.processes


async def test_listeners_are_small_and_soon_served_when_they_are_many(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """Half by SSE, half by WebSocket, nearly all of them idle."""
    settings = Settings(
        database_url=database_url,
        redis_url=redis_url,
        applications=APPLICATIONS,
        api_key=KEY,
        port=free_port(),
        log_level="warning",
    )
    root = Path(__file__).parents[2]
    program = Program(
        name="api",
        command=(sys.executable, "-m", "headrace.cli", "api"),
        environment=settings.as_environment() | {"PYTHONPATH": f"{root}:{root / 'src'}"},
        working_directory=root,
    )
    async with open_record(settings) as record, relaying(settings):
        with running(program, tmp_path / "api.log") as process:
            api = psutil.Process(process.pid)
            await eventually(lambda: listening(settings.port))
            async with opened_tails(settings.port, 20):
                before = api.memory_info().rss
                async with opened_tails(settings.port, 500) as clients:
                    each = (api.memory_info().rss - before) / 500
                    milliseconds = await latency(record, clients, 20)

    assert each < 60_000
    assert sorted(milliseconds)[10] < 250


async def listening(port: int) -> bool:
    """Tell whether somebody answers on a port."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
