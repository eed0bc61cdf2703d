"""`headrace up`: everything on this machine, with one command.

Owns the order of the start: servers, migrations, processes, and the one line that says where everything is, printed
when `/health/system` finds every part alive. SIGINT, SIGTERM or SIGHUP ends the stack in order, with exit code 0; work
that is under way is finished or handed back first, unless a second signal says that there is no time. What a killed
`up` left running is ended by the next one. Never print the line before everything works.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import click
import httpx

from headrace.loops import Stop
from headrace.settings import Settings
from headrace.stack import ownership, readiness
from headrace.stack.plan import STOP_ORDER, Plan, make_plan
from headrace.stack.supervisor import StartError, Supervisor, supervising
from headrace.telemetry.logs import configure_logging

_SERVER_SECONDS = 60.0  # PostgreSQL reads its log again after a crash
_SYSTEM_SECONDS = 60.0
_SAME_SIGNAL_SECONDS = 0.5  # a terminal and what runs us may both hand on one Ctrl-C


async def up(settings: Settings, *, port: int, data_dir: Path) -> int:
    """Run the stack until a signal, and return the exit code: 0 after a signal, 1 when it did not come up.

    Raises:
        ConfigurationError: a stack runs on the directory already, or the port is taken, or a store cannot be made.

    """
    configure_logging(settings, "up")
    stop, hurry = _stop_on_signals()
    with ownership.held(data_dir) as directory:
        ownership.end_leftovers(directory)
        # the operator's own variables go to the processes as they are: OTEL_*, PATH, those of their application
        plan = make_plan(settings, os.environ, port=port, directory=directory)
        async with supervising(directory, plan.whereabouts, STOP_ORDER, hurry) as supervisor:
            failure = await _start_unless_stopped(supervisor, plan, stop)
            if failure is None and not stop.is_set():
                click.echo(ready_line(plan, directory))
                await stop.wait()
    if failure is not None:
        click.echo(f"headrace up: {failure}", err=True)
    return 0 if failure is None else 1


async def start(supervisor: Supervisor, plan: Plan) -> None:
    """Start everything and return when the whole system is alive.

    Raises:
        StartError: a part does not come up.

    """
    for program in plan.servers:
        supervisor.start(program)
    where = plan.whereabouts
    await supervisor.wait_for("PostgreSQL", lambda: readiness.postgres_answers(where.postgres_url), _SERVER_SECONDS)
    await supervisor.wait_for("Redis", lambda: readiness.redis_answers(where.redis_url), _SERVER_SECONDS)
    await supervisor.run_once(plan.migrate)
    for program in plan.processes:
        supervisor.start(program)
    async with httpx.AsyncClient(base_url=where.api_url, timeout=2) as client:
        await supervisor.wait_for("the system", lambda: _healthy(client), _SYSTEM_SECONDS)


def ready_line(plan: Plan, directory: Path) -> str:
    """Return the line that a person reads, and other programs wait for."""
    where = plan.whereabouts
    return (
        f"Headrace is ready: API {where.api_url} · docs {where.api_url}/docs · console {where.api_url}/console · "
        f"mail {where.mail_url} · key {plan.api_key} · all in {directory}"
    )


async def _start_unless_stopped(supervisor: Supervisor, plan: Plan, stop: Stop) -> StartError | None:
    starting = asyncio.create_task(start(supervisor, plan))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    for task in (starting, stopping):
        task.cancel()
    started, _ = await asyncio.gather(starting, stopping, return_exceptions=True)
    if isinstance(started, StartError):
        return started
    if isinstance(started, Exception):
        raise started
    return None


async def _healthy(client: httpx.AsyncClient) -> bool:
    try:
        answer = await client.get("/health/system")
    except httpx.TransportError:
        return False
    return answer.status_code == httpx.codes.OK


def _stop_on_signals() -> tuple[Stop, Stop]:
    """Return the flag that the first signal sets, and the one that a later signal sets."""
    stop, hurry = Stop(), Stop()
    loop = asyncio.get_running_loop()
    first_at = loop.time()

    def take() -> None:
        nonlocal first_at
        if not stop.is_set():
            first_at = loop.time()
            stop.set()
        elif loop.time() - first_at > _SAME_SIGNAL_SECONDS:
            hurry.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, take)
    return stop, hurry
