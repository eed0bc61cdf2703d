"""`/openapi.json`, `/asyncapi.json` and `/docs`: the API and the events described, for programs and for people.

Owns the page: one HTML file made from the OpenAPI document, without a script and without anything from elsewhere, so
that it can be read where there is no internet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from html import escape
from typing import Any, Final

import msgspec
from litestar import MediaType, Response, Router, get

from headrace.api.auth import PUBLIC

_METHODS: Final = ("get", "post", "put", "patch", "delete")
_STYLE: Final = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c2733;background:#fff}
h1,h2{line-height:1.2}h2{margin-top:2.5rem;border-bottom:1px solid #d7dee6}
summary{cursor:pointer;padding:.4rem 0}code,pre{font:14px/1.45 ui-monospace,monospace}
pre{background:#f3f6f9;padding:.8rem;overflow:auto;border-radius:4px}table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.2rem .8rem .2rem 0;vertical-align:top}
.method{display:inline-block;min-width:4.5rem;font-weight:700}
@media(prefers-color-scheme:dark){body{color:#dfe7ee;background:#12181f}pre{background:#1c2530}h2{border-color:#33404d}a{color:#8cbfff}}
"""


Describe = Callable[[], dict[str, Any]]
"""Makes a document; called once, when it is first asked for."""


def docs_routes(describe: Describe, describe_events: Describe) -> Router:
    """Return the routes of the OpenAPI document, of the AsyncAPI document and of the page."""
    document = cache(lambda: msgspec.json.encode(describe()))
    events = cache(lambda: msgspec.json.encode(describe_events()))
    page = cache(lambda: _page(msgspec.json.decode(document())).encode())

    @get("/openapi.json", include_in_schema=False, sync_to_thread=False)
    def openapi() -> Response[bytes]:
        return Response(document(), media_type="application/json")

    @get("/asyncapi.json", include_in_schema=False, sync_to_thread=False)
    def asyncapi() -> Response[bytes]:
        return Response(events(), media_type="application/json")

    @get("/docs", include_in_schema=False, sync_to_thread=False)
    def docs() -> Response[bytes]:
        return Response(page(), media_type=MediaType.HTML)

    return Router(path="/", route_handlers=[openapi, asyncapi, docs], opt=PUBLIC)


def _page(document: dict[str, Any]) -> str:
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    return "".join(
        (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>',
            f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style>',
            f"<h1>{title}</h1>",
            *(f"<p>{escape(part)}</p>" for part in document["info"]["description"].split("\n\n")),
            '<p><a href="/openapi.json">openapi.json</a> · <a href="/asyncapi.json">asyncapi.json</a>: the events</p>',
            "<p>Keys: <code>Authorization: Bearer …</code></p>",
            *_sections(document),
            "</html>",
        )
    )


def _sections(document: dict[str, Any]) -> Iterator[str]:
    groups: dict[str, list[str]] = {}
    for path, item in sorted(document["paths"].items()):
        for method in _METHODS:
            if method in item:
                tag = (item[method].get("tags") or ["Other"])[0]
                groups.setdefault(tag, []).append(_operation(path, method, item[method]))
    for tag, operations in sorted(groups.items()):
        yield f"<h2>{escape(tag)}</h2>{''.join(operations)}"
    yield "<h2>Types</h2>"
    for name, schema in sorted(document["components"]["schemas"].items()):
        shown = escape(msgspec.json.format(msgspec.json.encode(schema), indent=2).decode())
        yield f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary><pre>{shown}</pre></details>'


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    head = f'<span class="method">{method.upper()}</span> <code>{escape(path)}</code> — {escape(operation["summary"])}'
    return "".join(
        (
            f"<details><summary>{head}</summary>",
            f"<p>{escape(operation.get('description') or '')}</p>",
            _parameters(operation.get("parameters", [])),
            *(f"<p>Body: {link}</p>" for link in _links(operation.get("requestBody"))),
            *(_response(status, response) for status, response in sorted(operation["responses"].items())),
            "</details>",
        )
    )


def _parameters(parameters: list[dict[str, Any]]) -> str:
    rows = (
        f"<tr><td><code>{escape(one['name'])}</code><td>{escape(one['in'])}"
        f"<td>{escape(one.get('description') or one.get('schema', {}).get('description') or '')}"
        for one in parameters
    )
    return f"<table>{''.join(rows)}</table>" if parameters else ""


def _response(status: str, response: dict[str, Any]) -> str:
    return f"<p>{escape(status)}: {escape(response.get('description', ''))} {' '.join(_links(response))}</p>"


def _links(node: Any) -> Iterator[str]:  # noqa: ANN401 - a node of a JSON document
    """Return links to the types that a node names."""
    if isinstance(node, list):
        for item in node:
            yield from _links(item)
    if isinstance(node, dict):
        if reference := node.get("$ref"):
            name = escape(str(reference).rpartition("/")[2])
            yield f'<a href="#{name}"><code>{name}</code></a>'
        for key, item in node.items():
            if key != "discriminator":
                yield from _links(item)
