"""The application: every route behind one guard, one decoder, one exception handler and one trace.

Owns the assembly of the API from the parts that a `Door` holds. What is declared by an application is served beside the
routes of Headrace, under the same rules. Making the application opens nothing.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Final

from litestar import Litestar
from litestar.datastructures import State
from litestar.openapi.config import OpenAPIConfig
from litestar.types import ASGIApp, ControllerRouterHandler

from headrace.api.asyncapi import asyncapi_of
from headrace.api.auth import PUBLIC, authorize
from headrace.api.bodies import StrictRequest
from headrace.api.bulk import bulk_routes
from headrace.api.dead import dead_routes
from headrace.api.docs import docs_routes
from headrace.api.door import Door
from headrace.api.event_types import event_type_routes
from headrace.api.events import event_routes
from headrace.api.health import health_routes
from headrace.api.history import history_routes
from headrace.api.job_stream import stream_routes
from headrace.api.jobs import job_routes
from headrace.api.keys import key_routes
from headrace.api.lanes import lane_routes
from headrace.api.live import live_routes
from headrace.api.live_socket import LiveSocket
from headrace.api.methods import Methods
from headrace.api.openapi import AnyJson, completed, openapi_config
from headrace.api.preview import preview_routes
from headrace.api.problems import answer_problem
from headrace.api.queues import queue_routes
from headrace.api.raw_keys import RawKeys
from headrace.api.replays import replay_routes
from headrace.api.retrying import retrying_routes
from headrace.api.subscriptions import subscription_routes
from headrace.api.tasks import task_routes
from headrace.api.tracing import Traced
from headrace.api.webhooks import webhook_routes
from headrace.api.workflows import workflow_routes
from headrace.console.routes import console_routes

BODY_BYTES: Final = 1024 * 1024


def create_app(door: Door) -> ASGIApp:
    """Return the ASGI application that serves everything."""

    def describe() -> dict[str, Any]:
        # an application of its own: the one that serves would add Litestar's pages, which load scripts from elsewhere
        described = _litestar(door, _routes(door), openapi_config(version("headrace")))
        return completed(described.openapi_schema.to_schema(), door.registry.events)

    def describe_events() -> dict[str, Any]:
        return asyncapi_of(door.registry, version("headrace"))

    served = _litestar(door, [*_routes(door), docs_routes(describe, describe_events), console_routes(PUBLIC)], None)
    return LiveSocket(Traced(RawKeys(Methods(served)), door.metrics), door)


def _routes(door: Door) -> list[ControllerRouterHandler]:
    return [
        job_routes(door.requests),
        workflow_routes(door.requests),
        retrying_routes,
        bulk_routes,
        history_routes,
        stream_routes,
        task_routes,
        queue_routes,
        event_routes,
        event_type_routes,
        subscription_routes,
        preview_routes,
        replay_routes,
        dead_routes,
        lane_routes,
        key_routes,
        webhook_routes,
        live_routes,
        health_routes,
        *door.registry.controllers,
    ]


def _litestar(door: Door, handlers: list[ControllerRouterHandler], openapi: OpenAPIConfig | None) -> Litestar:
    return Litestar(
        route_handlers=handlers,
        guards=[authorize],
        exception_handlers={Exception: answer_problem},
        request_class=StrictRequest,
        request_max_body_size=BODY_BYTES,
        state=State({"door": door}),
        openapi_config=openapi,
        plugins=[AnyJson()],
        logging_config=None,
    )
