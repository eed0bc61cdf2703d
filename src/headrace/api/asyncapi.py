"""What the event side says of itself: AsyncAPI 3.0 (https://www.asyncapi.com/docs/reference/specification/v3.0.0).

Owns the document: a channel for each declared event type, its message with the CloudEvents attributes as headers and
the data as payload, and an operation for each type that a subscription receives. Made from the declarations alone, so
two processes of one version say the same. Never write by hand here what a declared type says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from headrace.api.cloudevents import SINGLE, VERSION
from headrace.application import Registry
from headrace.events.registry import EventType
from headrace.events.shapes import version_schema
from headrace.subscribers.contract import Subscription
from headrace.webhooks.model import FAN_OUT

ASYNCAPI: Final = "3.0.0"
_SCHEMAS: Final = "#/components/schemas/"
_DESCRIPTION: Final = """\
The facts that this deployment publishes and who reacts to them. Events of one subject are handled in order. They are
published by `POST /v1/events` or within a transaction of the code, and received by subscriptions of the code, by
webhooks (`/v1/webhooks`), and live by `GET /v1/events/stream` and `/v1/live`."""


def asyncapi_of(registry: Registry, version: str) -> dict[str, Any]:
    """Return the document of what the loaded applications declare."""
    events = dict(sorted(registry.events.items()))
    references, schemas = _schemas_of(list(events.values()))
    return {
        "asyncapi": ASYNCAPI,
        "info": {"title": "Headrace", "version": version, "description": _DESCRIPTION},
        "defaultContentType": SINGLE,
        "channels": {name: _channel(event) for name, event in events.items()},
        "operations": dict(_operations(registry.subscriptions)),
        "components": {
            "messages": {name: _message(event, references[name]) for name, event in events.items()},
            "schemas": schemas,
        },
    }


def _channel(event: EventType) -> dict[str, Any]:
    return {
        "address": event.type,
        "title": event.type,
        "description": event.description,
        "messages": {event.type: {"$ref": f"#/components/messages/{event.type}"}},
    }


def _message(event: EventType, payload: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": event.type,
        "title": event.data_type.__name__,
        "summary": event.description,
        "contentType": SINGLE,
        "headers": _headers(event),
        "payload": payload,
    }


def _headers(event: EventType) -> dict[str, Any]:
    """Describe the CloudEvents attributes, which stand beside `data` in the JSON format."""
    text = {"type": "string"}
    subject = f"the value of `{event.subject}`, the ordering key" if event.subject else "the ordering key, if any"
    return {
        "type": "object",
        "required": ["specversion", "id", "source", "type"],
        "properties": {
            "specversion": {"type": "string", "const": "1.0"},
            "id": text | {"description": "unique for the source"},
            "source": text | {"format": "uri-reference", "default": event.source},
            "type": {"type": "string", "const": event.type},
            "subject": text | {"description": subject},
            "time": text | {"format": "date-time"},
            "datacontenttype": {"type": "string", "const": "application/json"},
            VERSION: version_schema(event),
        },
    }


def _operations(subscriptions: Mapping[str, Subscription]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield one operation for each type that a subscription receives: an operation has one channel."""
    for name, subscription in sorted(subscriptions.items()):
        for event_type in subscription.types if name != FAN_OUT else ():  # that serves the webhooks, which are no code
            yield f"{name}:{event_type}", _operation(subscription, event_type)


def _operation(subscription: Subscription, event_type: str) -> dict[str, Any]:
    asked = subscription.filter
    said = {
        "action": "receive",
        "channel": {"$ref": f"#/channels/{event_type}"},
        "title": subscription.name,
        "summary": subscription.description,
        "messages": [{"$ref": f"#/channels/{event_type}/messages/{event_type}"}],
        "tags": [{"name": subscription.kind.value}],
        "x-patterns": list(subscription.patterns),
        "x-ordered": subscription.policy.ordered,
    }
    return said if asked is None else said | {"x-filter": msgspec.json.decode(asked.written)}


def _schemas_of(events: list[EventType]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Return the reference to the data of each type, and the schemas referred to."""
    references, schemas = msgspec.json.schema_components(
        [event.data_type for event in events],
        schema_hook=lambda _: {"description": "any JSON"},
        ref_template=f"{_SCHEMAS}{{name}}",
    )
    by_type = {event.type: reference for event, reference in zip(events, references, strict=True)}
    return by_type, {name: _as_draft_07(schema) for name, schema in schemas.items()}


def _as_draft_07(node: Any) -> Any:  # noqa: ANN401 - a node of a JSON document
    """Return a schema as AsyncAPI takes it: draft 07 has tuples as `items`, and no discriminator of OpenAPI's form."""
    if isinstance(node, list):
        return [_as_draft_07(item) for item in node]
    if not isinstance(node, dict):
        return node
    said = {name: _as_draft_07(item) for name, item in node.items() if name != "discriminator"}
    if isinstance(said.get("prefixItems"), list):
        said["additionalItems"] = said.pop("items", True)
        said["items"] = said.pop("prefixItems")
    return said
