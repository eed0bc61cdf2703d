"""What the API says of itself: OpenAPI 3.1.

Owns what Litestar cannot know: that every operation may answer with a problem, that a key is needed, and which
field tells the members of a union apart, so that a generated client has a typed call for each task. Made once, when
first asked for. Never write by hand here what a handler's own types say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from litestar._openapi.schema_generation import SchemaCreator  # the type of an argument that we do not use
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import Components, Schema, SecurityScheme
from litestar.plugins import OpenAPISchemaPlugin
from litestar.typing import FieldDefinition

from headrace.api.cloudevents import BATCH, MOST_EVENTS, SINGLE, VERSION
from headrace.api.problems import MEDIA_TYPE, Problem
from headrace.events.intake import Attributes
from headrace.events.registry import EventType
from headrace.events.shapes import version_schema
from headrace.jobs.progress import Progress

TAG: Final = "task"
_GENERIC: Final = re.compile(rb"\b(Page)_(?:\w+\.)*(\w+?)_(?=\")")
_METHODS: Final = ("get", "post", "put", "patch", "delete")
_ASKED_ANEW: Final = frozenset({"/v1/webhooks/{webhook_id}/test", "/v1/subscriptions/preview"})
"""POSTs that put nothing on record: each request gets an answer of its own, and an `Idempotency-Key` says nothing."""
_NOTHING: Final = {"type": "null"}
_REF: Final = "#/components/schemas/"
_HEADERS: Final[dict[str, Any]] = {
    "Trace-Id": {"description": "the trace of the request", "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"}},
    "Location": {"description": "where it is", "schema": {"type": "string"}},
    "Retry-After": {
        "description": "seconds; where the same request may succeed later",
        "schema": {"type": "integer"},
    },
    "Idempotent-Replay": {
        "description": "`true` where this is the first answer, given again",
        "schema": {"type": "string", "enum": ["true"]},
    },
}
_DESCRIPTION: Final = """\
Everything that must happen after a request was answered: jobs, events and schedules.

A 2xx answer means that it is on record and will happen. Every answer carries `Trace-Id`. A POST that creates takes an
`Idempotency-Key`: the same key and body within 24 hours get the first answer again. Errors are
`application/problem+json` (RFC 9457)."""


class AnyJson(OpenAPISchemaPlugin):
    """Describes values that are JSON of any shape."""

    def is_plugin_supported_field(self, field_definition: FieldDefinition) -> bool:
        """Tell whether a type is any JSON."""
        return field_definition.annotation in {msgspec.Raw, object}

    def to_openapi_schema(self, field_definition: FieldDefinition, schema_creator: SchemaCreator) -> Schema:
        """Return the schema that allows everything."""
        del field_definition, schema_creator
        return Schema(description="any JSON")


def openapi_config(version: str) -> OpenAPIConfig:
    """Return what Litestar is told about the whole API."""
    return OpenAPIConfig(
        title="Headrace",
        version=version,
        description=_DESCRIPTION,
        use_handler_docstrings=True,
        security=[{"key": []}],
        components=Components(security_schemes={"key": SecurityScheme(type="http", scheme="bearer")}),
    )


def completed(document: dict[str, Any], events: Mapping[str, EventType]) -> dict[str, Any]:
    """Complete the document that Litestar has made, with the types of the declared events."""
    schemas = document["components"]["schemas"]
    _, described = msgspec.json.schema_components(
        [Attributes, Problem, Progress], schema_hook=_any_json, ref_template=_REF + "{name}"
    )
    schemas |= described | {"CloudEvent": described.pop("Attributes")}
    schemas["Job"]["properties"]["progress"] = {"oneOf": [{"$ref": f"{_REF}Progress"}, {"type": "null"}]}
    document["paths"]["/v1/events"]["post"]["requestBody"] = _events_body(_event_schemas(events, schemas))
    for path, method, operation in _operations(document):
        operation["responses"].pop("400", None)
        _add_headers(path, method, operation["responses"])
        operation["responses"]["default"] = _problem_response()
        _allow_no_body(operation.get("requestBody", {}))
        if not path.startswith("/v1"):
            operation["security"] = []
        if method == "post" and path.startswith("/v1") and path not in _ASKED_ANEW:
            operation.setdefault("parameters", []).append(_idempotency_parameter())
    _discriminate(document, schemas)
    return _with_short_names(document)


def _with_short_names(document: dict[str, Any]) -> dict[str, Any]:
    """Call `Page[Job]` JobPage: Litestar names a generic type by its module, and a client's class after that."""
    named: dict[str, Any] = msgspec.json.decode(_GENERIC.sub(rb"\2\1", msgspec.json.encode(document)))
    return named


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                yield path, method, item[method]


def _problem_response() -> dict[str, Any]:
    problem = {"schema": {"$ref": f"{_REF}Problem"}}
    headers = {name: _HEADERS[name] for name in ("Trace-Id", "Retry-After")}
    return {"description": "What went wrong", "headers": headers, "content": {MEDIA_TYPE: problem}}


def _add_headers(path: str, method: str, responses: dict[str, Any]) -> None:
    """Declare the headers of the answers that are not problems."""
    for status, response in responses.items():
        names = ["Trace-Id"]
        if method == "post" and path.startswith("/v1"):
            names.append("Idempotent-Replay")
        if status == "201" or (path, method) == ("/v1/jobs", "post"):
            names.append("Location")
        if status == "503":
            names.append("Retry-After")
        response["headers"] = response.get("headers", {}) | {name: _HEADERS[name] for name in names}


def _allow_no_body(body: dict[str, Any]) -> None:
    """Say that a body which may be null may be missing: Litestar calls it required."""
    for content in body.get("content", {}).values():
        members = content.get("schema", {}).get("oneOf", [])
        if _NOTHING in members:
            (content["schema"],) = [member for member in members if member != _NOTHING]
            body["required"] = False


def _any_json(_: type) -> dict[str, Any]:
    return {"description": "any JSON"}


def _event_schemas(events: Mapping[str, EventType], schemas: dict[str, Any]) -> dict[str, str]:
    """Add the schema of a CloudEvent of each declared type, and of its data; return the references by type."""
    declared = sorted(events.values(), key=lambda one: one.type)
    references, described = msgspec.json.schema_components(
        [one.data_type for one in declared], schema_hook=_any_json, ref_template=f"{_REF}{{name}}Data"
    )
    schemas |= {f"{name}Data": schema for name, schema in described.items()}
    found: dict[str, str] = {}
    for one, reference in zip(declared, references, strict=True):
        event = schemas["CloudEvent"]
        own = {"type": {"type": "string", "const": one.type}, VERSION: version_schema(one), "data": reference}
        name = str(reference["$ref"]).removeprefix(_REF).removesuffix("Data") + "Event"
        schemas[name] = event | {
            "title": name,
            "description": one.description,
            "properties": event["properties"] | own,
            "required": [*event["required"], "data"],
        }
        found[one.type] = _REF + name
    return found


def _events_body(declared: Mapping[str, str]) -> dict[str, Any]:
    one: dict[str, Any] = {"$ref": f"{_REF}CloudEvent"}
    if declared:
        members = [{"$ref": reference} for reference in declared.values()]
        one = {"oneOf": members, "discriminator": {"propertyName": "type", "mapping": dict(declared)}}
    many = {"type": "array", "items": one, "minItems": 1, "maxItems": MOST_EVENTS}
    return {"required": True, "content": {SINGLE: {"schema": one}, BATCH: {"schema": many}}}


def _idempotency_parameter() -> dict[str, Any]:
    return {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "schema": {"type": "string", "maxLength": 255},
        "description": "a repeat with the same key and body within 24 hours gets the first answer again",
    }


def _discriminate(node: Any, schemas: dict[str, Any]) -> None:  # noqa: ANN401 - a node of a JSON document
    """Add a discriminator to every union of tagged members."""
    if isinstance(node, list):
        for item in node:
            _discriminate(item, schemas)
    if not isinstance(node, dict):
        return
    tags = {_tag_of(member, schemas): member.get("$ref") for member in node.get("oneOf", ())}
    if len(tags) > 1 and None not in tags:
        node["discriminator"] = {"propertyName": TAG, "mapping": tags}
    for item in node.values():
        _discriminate(item, schemas)


def _tag_of(member: dict[str, Any], schemas: dict[str, Any]) -> str | None:
    target = schemas.get(str(member.get("$ref", "")).removeprefix(_REF), {})
    constant: str | None = target.get("properties", {}).get(TAG, {}).get("const")
    return constant
