"""HEAD and OPTIONS are answered on every path, and files have the type that they are of."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from headrace.settings import Settings
from tests.integration.api_road import KEY, open_api


@pytest.fixture
async def client(database_url: str, redis_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API."""
    async with open_api(Settings(database_url=database_url, redis_url=redis_url, api_key=KEY)) as (opened, _):
        yield opened


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/v1/tasks", "/openapi.json", "/console", "/v1/nix"])
async def test_head_is_get_without_a_body_when_a_path_is_asked_for(client: httpx.AsyncClient, path: str) -> None:
    """HEAD has the status and the headers of GET."""
    got = await client.get(path)

    head = await client.head(path)

    assert (head.status_code, head.headers["content-type"]) == (got.status_code, got.headers["content-type"])
    assert head.content == b""


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/jobs", "GET, HEAD, OPTIONS, POST"),
        ("/v1/events", "GET, HEAD, OPTIONS, POST"),
        ("/v1/jobs/batch", "OPTIONS, POST"),
        ("/health/live", "GET, HEAD, OPTIONS"),
    ],
)
async def test_all_methods_are_named_when_options_are_asked_for(
    client: httpx.AsyncClient, path: str, methods: str
) -> None:
    """`Allow` names every method of the path, in the answer to OPTIONS and in a refusal."""
    options = await client.options(path)
    refused = await client.put(path)

    assert (options.status_code, options.headers["allow"], options.content) == (204, methods, b"")
    assert (refused.status_code, refused.headers["allow"]) == (405, methods)


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("", "text/html; charset=utf-8"),
        ("/console.js", "text/javascript; charset=utf-8"),
        ("/console.css", "text/css; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
    ],
)
async def test_file_has_its_type_when_the_console_is_loaded(
    client: httpx.AsyncClient, name: str, content_type: str
) -> None:
    """Each file of the console says once what it is."""
    answer = await client.get(f"/console{name}")

    assert (answer.status_code, answer.headers["content-type"]) == (200, content_type)


@pytest.mark.parametrize("path", ["jobs", "tasks", "queues", "workers", "events", "event-types", "subscriptions"])
async def test_cursor_is_refused_when_it_is_empty(client: httpx.AsyncClient, path: str) -> None:
    """An empty cursor is none of ours, in every listing."""
    answer = await client.get(f"/v1/{path}?cursor=")

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "cursor")
