"""The process `headrace api`: serves HTTP until it is told to stop.

Owns the server (uvicorn on uvloop with httptools) and its end: it accepts no new connection, lets those that wait for
jobs go, and finishes what is under way within `shutdown_seconds`. Any number of these processes may run; none holds
anything that another would miss.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Iterator
from typing import Final

import structlog
import uvicorn

from headrace.api.app import create_app
from headrace.api.door import Door, open_door
from headrace.api.protocols import HttpProtocol, WebSocketProtocol
from headrace.application import Registry
from headrace.collector import spare_collector
from headrace.database.record import Record
from headrace.errors import ConfigurationError
from headrace.jobs.queues import register_queues
from headrace.live.opening import KEEP_ALIVE_SECONDS
from headrace.loops import Stop
from headrace.presence import Identity, Presence
from headrace.settings import Settings

logger = structlog.get_logger(__name__)

STATEMENT_SECONDS: Final = 8.0
"""How long a statement may take; a request whose PostgreSQL is frozen is answered with 503 then."""

_MESSAGE_BYTES: Final = 64 * 1024
"""Of what a client may send over a WebSocket; nothing of it is read."""

_FAREWELL_SECONDS: Final = 1.0
"""How long the clients of live tails have for the end when the process ends."""

_DESCRIPTORS: Final = 65_536
"""Open files and sockets that this process asks for; its supervisor may allow it less."""


async def run_api(settings: Settings, registry: Registry, record: Record, stop: Stop) -> None:
    """Serve until `stop` is set.

    Raises:
        ConfigurationError: the address is taken, or is none of this machine.

    """
    _allow_connections()
    listener = _listen(settings)
    await register_queues(record.engine, {task.policy.queue for task in registry.tasks.values()})
    presence = Presence(settings.database_url, Identity("api", settings.lease_seconds))
    async with open_door(settings, registry, record) as door:
        server = _Server(_config(settings, door))
        stopping = asyncio.create_task(_stop(server, door, stop))
        await presence.start()
        spare_collector()
        logger.info("serving", host=settings.host, port=listener.getsockname()[1])
        try:
            await server.serve(sockets=[listener])
        finally:
            stopping.cancel()
            await presence.stop()


class _Server(uvicorn.Server):
    """A server that leaves the signals to whoever runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def _config(settings: Settings, door: Door) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(door),
        http=HttpProtocol,
        ws=WebSocketProtocol,
        ws_per_message_deflate=False,  # its window would take more memory than all else of a listener
        ws_max_size=_MESSAGE_BYTES,
        ws_ping_interval=KEEP_ALIVE_SECONDS,
        loop="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, int(settings.shutdown_seconds)),
    )


def _allow_connections() -> None:
    """Ask for as many descriptors as may be had: the 1,024 of many systems are few for who keeps connections open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _listen(settings: Settings) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        message = f"cannot listen on {settings.host}:{settings.port}: {error.strerror}: choose another HEADRACE_PORT"
        raise ConfigurationError(message) from error


async def _stop(server: uvicorn.Server, door: Door, stop: Stop) -> None:
    await stop.wait()
    door.release()
    server.should_exit = True
    await asyncio.sleep(_FAREWELL_SECONDS)
    door.hub.cut(0.0)
