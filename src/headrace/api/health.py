"""`/health/*` and `/metrics`: for load balancers, supervisors and Prometheus; no key is needed.

Owns what "ready" means: this process can accept work, so PostgreSQL answers and its schema fits. Redis is not needed to
accept. `system` is the whole: 200 only where every part is alive.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
from litestar import Request, Response, Router, get
from litestar.openapi.datastructures import ResponseSpec

from headrace.api.auth import PUBLIC
from headrace.api.door import door_of
from headrace.api.gauges import fill_gauges
from headrace.api.watch import SystemHealth
from headrace.database.schema import check_schema
from headrace.errors import SchemaMismatchError, UnavailableError
from headrace.telemetry.metrics import CONTENT_TYPE

_PATIENCE_SECONDS: Final = 3.0


class Alive(msgspec.Struct, frozen=True):
    """What a healthy process says."""

    status: str = "ok"


@get("/health/live", summary="Is this process alive?")
async def live() -> Alive:
    """Answer as long as the event loop runs."""
    return Alive()


@get("/health/ready", summary="Can this process accept work?")
async def ready(request: Request[Any, Any, Any]) -> Alive:
    """Answer 200 where PostgreSQL answers and its schema fits, 503 otherwise."""
    door = door_of(request)
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await check_schema(door.record.engine, door.registry.migrations)
    except SchemaMismatchError as error:
        raise UnavailableError(str(error), retry_after_seconds=5) from error
    return Alive()


@get(
    "/health/system",
    summary="Is everything alive?",
    responses={503: ResponseSpec(SystemHealth, description="What is missing, and since when")},
)
async def system(request: Request[Any, Any, Any]) -> Response[SystemHealth]:
    """Answer 200 only where PostgreSQL, Redis, a leading relay, workers, consumers and the clock are alive."""
    health = await door_of(request).watch.look()
    if health.missing:
        return Response(health, status_code=503, headers={"Retry-After": "1"})
    return Response(health)


@get("/metrics", summary="Metrics for Prometheus", media_type="text/plain", include_in_schema=False)
async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Return the metrics; the gauges are read from the record now."""
    door = door_of(request)
    await fill_gauges(door.metrics, door.record)
    door.metrics.live_listeners.set(len(door.hub))
    door.metrics.live_dropped.set(door.hub.dropped)
    return Response(door.metrics.render(), headers={"Content-Type": CONTENT_TYPE})


health_routes = Router(path="/", route_handlers=[live, ready, system, metrics], tags=["Health"], opt=PUBLIC)
