"""The process `headrace api`: serves until it is told to stop.

Owns the start and the end of an API process. It listens when PostgreSQL answers with a fitting schema; at the end it
takes no new request, answers those under way for at most `shutdown_seconds`, and says that it is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import structlog
import uvicorn

from headrace.api.app import create_app
from headrace.api.door import open_door
from headrace.application import Registry
from headrace.loops import Stop
from headrace.presence import Identity, Presence
from headrace.resources import open_resources
from headrace.settings import Settings
from headrace.telemetry.logs import configure_logging
from headrace.telemetry.setup import configure

logger = structlog.get_logger(__name__)


class Server(uvicorn.Server):
    """Uvicorn's server, without signal handlers of its own: the process has its stop flag."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


async def serve(settings: Settings, registry: Registry, stop: Stop) -> None:
    """Serve the API until `stop` is set."""
    async with AsyncExitStack() as stack:
        configure_logging(settings, "api")
        stack.callback(configure("api").shutdown)
        resources = await stack.enter_async_context(open_resources(settings, registry))
        door = await stack.enter_async_context(open_door(settings, registry, resources.record))
        presence = Presence(settings.database_url, Identity("api", settings.lease_seconds))
        await presence.start()
        stack.push_async_callback(presence.stop)
        server = Server(_config(settings, create_app(door)))
        logger.info("api_listens", host=settings.host, port=settings.port)
        await _serve_until(server, stop)


async def _serve_until(server: Server, stop: Stop) -> None:
    async def end_with_flag() -> None:
        await stop.wait()
        server.should_exit = True

    async with asyncio.TaskGroup() as group:
        ending = group.create_task(end_with_flag())
        await server.serve()
        ending.cancel()


def _config(settings: Settings, app: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # uvicorn types an ASGI application more narrowly than Litestar does
        host=settings.host,
        port=settings.port,
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=int(settings.shutdown_seconds) + 1,
    )
