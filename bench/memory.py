"""Memory: what each process of Headrace holds while nothing happens.

Owns the measurement: every process is started with the bundled applications, registers itself, rests for a while, and
is then asked for its resident memory. Of a process that only starts another (Taskiq's command line) the larger one
counts.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

from bench.stage import Stage, connected, resident_bytes
from headrace.stack.ports import free_port

_PROCESSES = {
    "api": ("headrace.cli", "api"),
    "relay": ("headrace.cli", "relay"),
    "consume": ("headrace.cli", "consume"),
    "worker": ("taskiq", "worker", "workers.tasks:broker", "--workers", "1", "--max-async-tasks", "100"),
    "cron": ("arq", "workers.cron.WorkerSettings"),
}
_REGISTERED = "SELECT count(DISTINCT role) FROM processes WHERE expires_at > now()"
_START_SECONDS = 60.0
_POLL_SECONDS = 0.1
_REST_SECONDS = 3.0


async def measure_memory(stage: Stage) -> dict[str, float]:
    """Return the resident memory of each process, idle, in MB (of 1,000,000 bytes)."""
    environment = stage.environment(HEADRACE_PORT=str(free_port()))
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(stage.running(name, *command, environment=environment))
            for name, command in _PROCESSES.items()
        }
        async with connected(stage) as connection, asyncio.timeout(_START_SECONDS):
            while await connection.fetchval(_REGISTERED) < len(_PROCESSES):
                await asyncio.sleep(_POLL_SECONDS)
        await asyncio.sleep(_REST_SECONDS)
        return {name: resident_bytes(process) / 1e6 for name, process in running.items()}
